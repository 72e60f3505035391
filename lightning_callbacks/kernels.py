r"""The tangent kernels of a loss, NTK and NNTK, in numbers.

Rows are the outputs z that the loss is made of: predictions of a regression, logits of a
classifier, residuals of a physics-informed loss. With J = dz/dtheta, R x P, and Q the second
derivative of the loss in z,

- the neural tangent kernel is :math:`J J^T`, with no factor 1/M;
- the Newton neural tangent kernel is :math:`Q^{1/2} J (H + \lambda I)^{-1} J^T Q^{1/2}`. For
  :math:`\ell = \|z - y\|^2/(2M)`, where Q = I/M, that is the kernel of Riedl, Spiliopoulos and
  Sirignano (2026). Its Gauss-Newton form has :math:`J^T Q J` in place of H and the eigenvalues
  :math:`\kappa/(\kappa + \lambda)` in (0, 1), with :math:`\kappa` those of
  :math:`Q^{1/2} J J^T Q^{1/2}`: the share of a mode's residual that one unit step removes.

Eigenvalues are squares of singular values of J, which resolves them down to :math:`10^{-24}` of
the largest in double precision, where a Gram matrix would end at :math:`10^{-16}`. What is
within rounding of zero is zero, and the condition number then infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import (
    LinearOperator,
    Residuals,
    SolveError,
    damped,
    find_residuals,
    inverse,
    jacobian,
)

from .measure import Numbers, Spectrum

JACOBIAN_ENTRIES = 2**27
"""At most so many entries of J are held, one GiB in double precision."""


@dataclass(frozen=True)
class Rows:
    """Some rows of J, and the second derivative of the loss in their outputs.

    Attributes:
        J: k x P, float64.
        weighted: F^T J, r x P, where Q = F F^T and F is k x r of full rank r: directions of the
            outputs that the loss does not see, as a shift common to all logits, are left out.
        total: R, the number of rows that there are.
    """

    J: Tensor
    weighted: Tensor
    total: int


def rows_of_loss(
    loss: Tensor, params: Sequence[Tensor], max_rows: int
) -> tuple[Rows | None, list[str]]:
    """The rows of the outputs that `find_residuals` reads off the loss's graph.

    Penalties on the parameters themselves are no outputs, and are left out.

    Returns:
        The rows, None where there are none, and the names of the nodes at which the search for
        them gave up.
    """
    found = find_residuals(loss)
    leaves = {torch.autograd.graph.get_gradient_edge(param).node for param in params}
    terms = [term for term in found.terms if term.z.node not in leaves]
    if not terms:
        return None, found.unrecognised
    residuals = Residuals(terms, [])
    chosen = choose([tuple(term.like.shape) for term in terms], _affordable(max_rows, params))
    J = _rows(residuals.jacobian(params), chosen)
    rows = Rows(J, _factor(residuals.hessian(), chosen).T @ J, residuals.rows)
    return rows, found.unrecognised


def rows_of_outputs(outputs: Tensor, params: Sequence[Tensor], max_rows: int) -> Rows:
    """The rows of outputs given apart from the loss; Q = I/M with M = len(outputs)."""
    chosen = choose([tuple(outputs.shape)], _affordable(max_rows, params))
    J = _rows(jacobian(outputs, params), chosen)
    samples = len(outputs) if outputs.ndim else 1
    return Rows(J, J / math.sqrt(samples), outputs.numel())


def choose(shapes: Sequence[tuple[int, ...]], max_rows: int) -> list[int]:
    """At most `max_rows` rows of outputs of these shapes, as indices into all of them in a row.

    Whole samples are kept, evenly spaced, and of each output the same share: the kernel is then
    that of fewer points, and by Cauchy's interlacing its eigenvalues lie between the smallest
    and the largest of the whole. Where single samples are too large, evenly spaced entries.

    >>> choose([(4, 1), (2, 3)], 5)
    [0, 2, 4, 5, 6]
    """
    sizes = [math.prod(shape) for shape in shapes]
    total = sum(sizes)
    if total <= max_rows:
        return list(range(total))
    chosen: list[int] = []
    start = 0
    for shape, size in zip(shapes, sizes, strict=True):
        samples = shape[0] if shape else 1
        entries = size // samples if samples else 0
        for sample in _evenly(samples, max(1, samples * max_rows // total)):
            chosen += range(start + sample * entries, start + (sample + 1) * entries)
        start += size
    if len(chosen) > max_rows:
        chosen = _evenly(total, max_rows)
    return chosen


def _evenly(count: int, wanted: int) -> list[int]:
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]


def _affordable(max_rows: int, params: Sequence[Tensor]) -> int:
    size = sum(param.numel() for param in params)
    return max(1, min(max_rows, JACOBIAN_ENTRIES // size))


def _rows(J: LinearOperator, chosen: Sequence[int]) -> Tensor:
    """The chosen rows of J, each by one backward pass."""
    rows = torch.empty(len(chosen), J.shape[1], dtype=torch.float64, device=J.device)
    cotangent = torch.zeros(J.shape[0], dtype=J.dtype, device=J.device)
    for i, index in enumerate(chosen):
        cotangent[index] = 1
        rows[i] = J.T @ cotangent
        cotangent[index] = 0
    return rows


def _factor(Q: LinearOperator, chosen: Sequence[int]) -> Tensor:
    """F of full rank with F F^T = the chosen rows and columns of Q, float64."""
    index = torch.tensor(chosen, device=Q.device)
    diagonal = Q @ torch.ones(Q.shape[0], dtype=Q.dtype, device=Q.device)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(Q.shape[0], generator=generator, dtype=torch.float64)
    probe = probe.to(Q.device, Q.dtype)
    epsilon = torch.finfo(Q.dtype).eps
    # Entrywise losses have a diagonal Q, which its row sums tell: if Q is not diagonal, they
    # fail on a random vector.
    difference = (Q @ probe - diagonal * probe).abs().max()
    if bool(difference <= 100 * epsilon * (diagonal * probe).abs().max()):
        weights = diagonal[index].double()
        kept = weights > epsilon * weights.max()
        return torch.diag(weights.sqrt())[:, kept]
    columns = []
    for i in chosen:
        unit = torch.zeros(Q.shape[0], dtype=Q.dtype, device=Q.device)
        unit[i] = 1
        columns.append((Q @ unit)[index].double())
    dense = torch.stack(columns, dim=1)
    weights, vectors = torch.linalg.eigh((dense + dense.T) / 2)
    kept = weights > len(weights) * epsilon * weights.max()
    factor: Tensor = vectors[:, kept] * weights[kept].sqrt()
    return factor


def kernel_numbers(
    rows: Rows,
    damping: float,
    epsilon: float,
    hessian: tuple[LinearOperator, Spectrum | None] | None = None,
) -> Numbers:
    """Smallest and largest eigenvalue and condition number of NTK and NNTK.

    Args:
        rows: of J.
        damping: lambda, absolute.
        epsilon: unit of rounding of the arithmetic behind J.
        hessian: for the NNTK of the true Hessian, H and its spectrum; the Gauss-Newton form
            without. H + lambda I need not be definite, and then neither is the NNTK; its
            condition number is the ratio of the absolute values. NaN where the linear systems
            cannot be solved.
    """
    if not bool(torch.isfinite(rows.J).all() and torch.isfinite(rows.weighted).all()):
        return unknown_kernels()
    if hessian is None:
        kappa = _squared_singular_values(rows.weighted, epsilon)
        newton = torch.where(kappa > 0, kappa / (kappa + damping), torch.zeros_like(kappa))
    else:
        newton = _newton_eigenvalues(rows.weighted, damping, *hessian)
    ntk = _squared_singular_values(rows.J, epsilon)
    return _extremes("nntk", newton) | _extremes("ntk", ntk)


def unknown_kernels() -> Numbers:
    """The logged numbers of kernels that are not finite."""
    nothing = torch.tensor([math.nan])
    return _extremes("nntk", nothing) | _extremes("ntk", nothing)


def _squared_singular_values(A: Tensor, epsilon: float) -> Tensor:
    """The eigenvalues of A A^T; zero where they are zero to rounding."""
    rows, columns = A.shape
    if rows == 0:
        return A.new_zeros(0)
    # The triangular factor has the same singular values, and is small.
    small = torch.linalg.qr(A.T, mode="r").R if rows < columns else A
    values: Tensor = torch.linalg.svdvals(small)
    values = torch.where(values > max(A.shape) * epsilon * values.max(), values, 0.0)
    return torch.cat([values.square(), values.new_zeros(rows - len(values))])


def _newton_eigenvalues(
    A: Tensor, damping: float, H: LinearOperator, spectrum: Spectrum | None
) -> Tensor:
    """The eigenvalues of A (H + damping I)^{-1} A^T."""
    if spectrum is None:
        return torch.tensor([math.nan])
    if spectrum.decomposition is not None:
        values, vectors = spectrum.decomposition
        rotated = A @ vectors
        kernel = (rotated / (values + damping)) @ rotated.T
    else:
        tol = max(1e-10, 10 * torch.finfo(H.dtype).eps)
        try:
            solved = inverse(damped(H, damping), tol=tol) @ A.T.to(H.dtype)
        except SolveError:
            return torch.tensor([math.nan])
        kernel = A @ solved.double()
    if not bool(torch.isfinite(kernel).all()):
        return torch.tensor([math.nan])
    eigenvalues: Tensor = torch.linalg.eigvalsh((kernel + kernel.T) / 2)
    return eigenvalues


def _extremes(name: str, eigenvalues: Tensor) -> Numbers:
    low = high = condition = math.nan
    if len(eigenvalues):  # a loss that is flat in all its outputs leaves none
        low, high = float(eigenvalues.min()), float(eigenvalues.max())
        smallest, largest = float(eigenvalues.abs().min()), float(eigenvalues.abs().max())
        condition = math.inf if smallest == 0 else largest / smallest
    return {
        f"{name}/lambda_min": low,
        f"{name}/lambda_max": high,
        f"{name}/condition_number": condition,
    }
