r"""The Newton neural tangent kernel of any module, as a matrix and as eigenvalues.

.. math:: J (H + \lambda I)^{-1} J^T,

with the Jacobian J = dz/dtheta of the outputs, R x P, the second derivative H of the loss in the
parameters, and the damping lambda (Riedl, Spiliopoulos and Sirignano 2026).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..autodiff.products import gauss_newton, hessian, output_hessian
from ..linalg.eigenvalue_signs import rounding_of
from ..linalg.eigenvalues import Eigenvalue, extreme_eigenvalues
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.operators import LinearOperator, damped, symmetric
from ..linalg.solve import SolveError, inverse
from .rows import JACOBIAN_ENTRIES, KernelError, jacobian_of
from .spectra import KernelSpectrum

MAX_FORMED = 4096
"""Parameters up to which H + lambda I is formed and factored rather than solved with by products.

At 4096 it takes 128 MiB in double precision. On a CPU, for 64 to 512 rows and 500 to 2,750
parameters, that took 0.01 to 0.2 of the time of conjugate gradients and minimum residuals where H
+ lambda I is indefinite or nearly so, 0.1 to 1 of it where it is well damped, and 4 times as long
in the one bad case, 64 rows of 2,750 parameters, well damped. The results are closer, too: to
1e-14 rather than 1e-10. With 6,000 parameters and a well-damped matrix it was already 2 to 14
times as slow."""


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
        params: the P parameters.
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

    By the eigendecomposition of H where one is given; else from H + lambda I itself up to
    `MAX_FORMED` parameters, and beyond that by one iterative solve a row, preconditioned with
    the Gauss-Newton matrix of J.

    Args:
        J: R x P.
        H: symmetric, P x P.
        damping: lambda, absolute.
        decomposition: eigenvalues and eigenvectors of H, float64.
        tol: relative residual of the iterative solves; by default 1e-10, or ten units of
            rounding where that is more, below which a residual cannot be relied on to fall.
        weight: what J J^T must be multiplied by to be as large as the kernel of H.

    Raises:
        SolveError: H + lambda I is singular, to rounding or to `tol`.
        KernelError: J has too many entries to be formed.
    """
    R, P = J.shape
    if R * P > JACOBIAN_ENTRIES:
        raise KernelError(f"a Jacobian of {R} x {P} is too large to form: take fewer rows")
    A = J.dense()
    if decomposition is not None:
        values, vectors = decomposition
        rotated = A.double() @ vectors
        return (rotated / (values + damping)) @ rotated.T
    shifted = damped(H, damping)
    if P <= MAX_FORMED:
        X = _solve_formed(shifted, A.T)
    else:
        tol = max(1e-10, 10 * torch.finfo(H.dtype).eps) if tol is None else tol
        M = _gauss_newton_inverse(math.sqrt(weight) * A, damping) if damping > 0 else None
        X = inverse(shifted, tol=tol, M=M) @ A.T
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

    H + lambda I need not be definite, and then neither is the kernel. All eigenvalues up to
    `max_size` rows, and the extreme ones beyond. Arguments as in `kernel_spectrum` and
    `newton_gram`; NaN where the linear systems cannot be solved.
    """
    unknown = Eigenvalue(math.nan, math.inf, False)
    nothing = KernelSpectrum(unknown, unknown), None
    tol = max(1e-10, 10 * epsilon)  # as in `newton_gram`
    try:
        if max_size < J.rows:
            solve = inverse(damped(H, damping), tol=tol)
            found = extreme_eigenvalues(J @ solve @ J.T, max_iter=products)
            # Each product is known to the tolerance of its solve.
            rounding = tol * max(abs(found.smallest.value), abs(found.largest.value))
            ends = [end.widened(rounding) for end in (found.smallest, found.largest)]
            return KernelSpectrum(ends[0], ends[1]), None
        gram = newton_gram(J, H, damping, decomposition=decomposition, tol=tol).double()
    except SolveError:
        return nothing
    if not bool(torch.isfinite(gram).all()):
        return nothing
    values = torch.linalg.eigvalsh((gram + gram.T) / 2)
    error = max(tol, len(values) * epsilon) * float(values.abs().max())
    if decomposition is not None:
        error += _rounding_in_solutions(J, decomposition, damping, epsilon)
    count = J.rows if rank is None else min(rank, J.rows)
    if count < len(values):
        # Rows that are zero leave zeros, which are no eigenvalues of what the loss sees.
        order = values.abs().argsort(descending=True)[:count]
        values = values[order].sort().values
    if not len(values):
        return nothing
    ends = [Eigenvalue(float(values[i]), error, True) for i in (0, -1)]
    return KernelSpectrum(ends[0], ends[1], values), gram


def _rounding_in_solutions(
    J: FactoredJacobian, decomposition: tuple[Tensor, Tensor], damping: float, epsilon: float
) -> float:
    r"""How far rounding in H and J moves an eigenvalue of the kernel, to first order.

    With :math:`X = (H + \lambda I)^{-1} J^T` that is
    :math:`|X|^2 |\delta H| + 2 |X| |\delta J|`, which is large where an eigenvalue of H lies near
    :math:`-\lambda`.
    """
    values, vectors = decomposition
    rows = J.dense().double()
    X = float(torch.linalg.vector_norm((rows @ vectors) / (values + damping)))
    unit = max(epsilon, torch.finfo(torch.float64).eps)
    in_rows = max(J.shape) * unit * float(torch.linalg.vector_norm(rows))
    return X**2 * rounding_of(values, unit) + 2 * X * in_rows


def _solve_formed(A: LinearOperator, B: Tensor) -> Tensor:
    """A^{-1} B by the matrix A itself, definite or not, in double precision.

    Raises:
        SolveError: A is not finite, or its smallest pivot is zero to rounding.
    """
    matrix = A.dense().double()
    LU, permutation, _ = torch.linalg.lu_factor_ex((matrix + matrix.T) / 2)
    pivots = LU.diagonal().abs()
    rounding = len(pivots) * torch.finfo(torch.float64).eps
    if not bool(pivots.min() > rounding * pivots.max()):  # also where there is a NaN
        raise SolveError(
            f"a matrix of {len(pivots)} x {len(pivots)} is singular to rounding, or not finite: "
            "raise the damping"
        )
    solution: Tensor = torch.linalg.lu_solve(LU, permutation, B.double())
    return solution.to(B.dtype)


def _gauss_newton_inverse(A: Tensor, damping: float) -> LinearOperator | None:
    r"""The inverse of :math:`A^T A + \lambda I`, P x P, for A of R x P.

    By the R x R system (Woodbury 1950); None where rounding has made that indefinite.
    """
    gram = A @ A.T
    gram.diagonal().add_(damping)
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info):
        return None

    def product(v: Tensor) -> Tensor:
        solved = torch.cholesky_solve((A @ v)[:, None], factor)[:, 0]
        return (v - A.T @ solved) / damping

    return symmetric(A.shape[1], product, dtype=A.dtype, device=A.device)
