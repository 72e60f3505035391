"""The Newton neural tangent kernel of any module, as a matrix and as eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..autodiff.products import gauss_newton, hessian, output_hessian
from ..linalg.block_conjugate_gradient import block_conjugate_gradient
from ..linalg.eigenvalues import Eigenvalue, extreme_eigenvalues
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.operators import LinearOperator, damped, symmetric
from ..linalg.solve import SolveError, inverse
from .rows import JACOBIAN_ENTRIES, KernelError, jacobian_of
from .spectra import KernelSpectrum


def newton_tangent_gram(
    loss: Tensor,
    outputs: Tensor,
    params: Sequence[Tensor],
    damping: float,
    *,
    curvature: str = "hessian",
) -> Tensor:
    r"""The Newton neural tangent kernel :math:`J (H + \lambda I)^{-1} J^T` as a matrix, R x R.

    Args:
        loss: a scalar, computed from `outputs`, with its graph.
        outputs: z, R entries.
        params: the parameters.
        damping: lambda, absolute.
        curvature: ``"hessian"``, or ``"gauss_newton"`` for :math:`J^T Q J` in place of H.

    Raises:
        KernelError: J must be formed and is too large; see `jacobian_of`.
        SolveError: H + lambda I is singular to rounding.
        ValueError: an unknown curvature.
    """
    if curvature not in ("hessian", "gauss_newton"):
        raise ValueError(f"curvature must be 'hessian' or 'gauss_newton', not {curvature!r}")
    J = jacobian_of(outputs, params)
    H = hessian(loss, params) if curvature == "hessian" else gauss_newton(loss, outputs, params)
    Q = output_hessian(loss, [outputs])
    weight = float((Q @ torch.ones(J.rows, dtype=Q.dtype, device=Q.device)).abs().mean())
    return newton_gram(J, H, damping, weight=weight or 1.0)


def newton_gram(
    J: FactoredJacobian,
    H: LinearOperator,
    damping: float,
    *,
    decomposition: tuple[Tensor, Tensor] | None = None,
    tol: float | None = None,
    weight: float = 1.0,
) -> Tensor:
    r""":math:`J (H + \lambda I)^{-1} J^T`, R x R, for any J and H.

    By the eigendecomposition of H where one is given. Else the systems of all rows are solved at
    once, by conjugate gradients preconditioned with the Gauss-Newton matrix of J, which share
    their products; where that meets negative curvature, row by row by minimum residuals.

    Args:
        J: R x P.
        H: symmetric, P x P.
        damping: lambda, absolute.
        decomposition: eigenvalues and eigenvectors of H, float64.
        tol: relative residual of the solves.
        weight: what J J^T must be multiplied by to be as large as the kernel of H.

    Raises:
        SolveError: H + lambda I is singular to `tol`.
        KernelError: J has too many entries to be formed.
    """
    R, P = J.rows, H.shape[0]
    if R * P > JACOBIAN_ENTRIES:
        raise KernelError(f"a Jacobian of {R} x {P} is too large to form: take fewer rows")
    A = J.dense()
    if decomposition is not None:
        values, vectors = decomposition
        rotated = A.double() @ vectors
        return (rotated / (values + damping)) @ rotated.T
    tol = max(1e-10, 10 * torch.finfo(H.dtype).eps) if tol is None else tol
    shifted = damped(H, damping)
    M = _gauss_newton_inverse(math.sqrt(weight) * A, damping) if damping > 0 else None
    solved = block_conjugate_gradient(shifted, A.T, M, tol=tol, max_iter=2 * P)
    X = solved.X
    if not bool(solved.converged.all()):
        rest = (~solved.converged).nonzero()[:, 0]
        X[:, rest] = inverse(shifted, tol=tol) @ A.T[:, rest]
    gram = A @ X
    return (gram + gram.T) / 2


def newton_spectrum(
    J: FactoredJacobian,
    H: LinearOperator,
    damping: float,
    *,
    epsilon: float,
    max_size: int = 2048,
    rank: int | None = None,
    products: int = 100,
    decomposition: tuple[Tensor, Tensor] | None = None,
) -> tuple[KernelSpectrum, Tensor | None]:
    r"""The eigenvalues of :math:`J (H + \lambda I)^{-1} J^T`, and the matrix where it is formed.

    H + lambda I need not be definite, and then neither is the kernel. Up to `max_size` rows all
    eigenvalues, and else the extreme ones. Arguments as in `kernel_spectrum` and `newton_gram`;
    NaN where the linear systems cannot be solved.
    """
    unknown = Eigenvalue(math.nan, math.inf, False)
    nothing = KernelSpectrum(unknown, unknown), None
    tol = max(1e-10, 10 * epsilon)
    try:
        if max_size < J.rows:
            solve = inverse(damped(H, damping), tol=tol)
            found = extreme_eigenvalues(J @ solve @ J.T, max_iter=products)
            return KernelSpectrum(found.smallest, found.largest), None
        gram = newton_gram(J, H, damping, decomposition=decomposition, tol=tol).double()
    except SolveError:
        return nothing
    if not bool(torch.isfinite(gram).all()):
        return nothing
    values = torch.linalg.eigvalsh((gram + gram.T) / 2)
    error = max(tol, len(values) * epsilon) * float(values.abs().max())
    count = J.rows if rank is None else min(rank, J.rows)
    if count < len(values):
        # The rows that are zero leave zeros, which are no eigenvalues of what the loss sees.
        order = values.abs().argsort(descending=True)[:count]
        values = values[order].sort().values
    if not len(values):
        return nothing
    ends = [Eigenvalue(float(values[i]), error, True) for i in (0, -1)]
    return KernelSpectrum(ends[0], ends[1], values), gram


def _gauss_newton_inverse(A: Tensor, damping: float) -> LinearOperator | None:
    """(A^T A + damping I)^{-1} by the R x R system (Woodbury 1950); None where rounding fails."""
    gram = A @ A.T
    gram.diagonal().add_(damping)
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info):
        return None

    def product(V: Tensor) -> Tensor:
        columns = V if V.ndim == 2 else V[:, None]
        result = (columns - A.T @ torch.cholesky_solve(A @ columns, factor)) / damping
        return result.reshape(V.shape)

    return symmetric(A.shape[1], product, dtype=A.dtype, device=A.device, matmat=product)
