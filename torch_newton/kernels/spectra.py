r"""The spectra of tangent kernels.

With J = dz/dtheta, R x P, and Q the second derivative of the loss in its outputs z,

- the neural tangent kernel is :math:`J J^T`, with no factor 1/M;
- the Newton neural tangent kernel is :math:`Q^{1/2} J (H + \lambda I)^{-1} J^T Q^{1/2}`. For
  :math:`\ell = \|z - y\|^2/(2M)`, where Q = I/M, that is the kernel of Riedl, Spiliopoulos and
  Sirignano (2026). Its Gauss-Newton form has :math:`J^T Q J` in place of H and the eigenvalues
  :math:`\kappa/(\kappa + \lambda)` in (0, 1), with :math:`\kappa` those of
  :math:`Q^{1/2} J J^T Q^{1/2}`: the share of a mode's residual that one unit step removes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.eigenvalue_signs import rounding_of
from ..linalg.eigenvalues import Eigenvalue, extreme_eigenvalues
from ..linalg.factored_jacobian import FactoredJacobian
from .operators import tangent_kernel
from .rows import KernelError, jacobian_of

SINGULAR_VALUE_ENTRIES = 2**22
"""Entries of J up to which eigenvalues are squares of its singular values. Those are known to
max(R, P) units of rounding of the largest, so that eigenvalues are resolved down to the square of
that, 1e-24 of the largest or better in double precision, where a Gram matrix would end at 1e-13.
The price is a QR decomposition, of 2 R P min(R, P) operations instead of half as many, and J in
memory: at this limit 32 MiB in double precision, and at most 17 G operations, a few seconds."""

SINGLE = torch.finfo(torch.float32).eps
"""The unit of single precision; a larger one is that of reduced precision."""

LIKELY = 8.0
"""Rounding in J in units of epsilon times its Frobenius norm, where products are in reduced
precision. The worst case, max(R, P) epsilon of the largest singular value, says nothing there: of
J with 128 columns in bfloat16 it is all of J. On 24 dense networks of 2 to 6 layers in bfloat16 it
was at most 3.3, where a unit falls on the other side of a kink; twice that, and a bit."""


@dataclass(frozen=True)
class KernelSpectrum:
    """The eigenvalues of a kernel.

    Attributes:
        smallest: with its error bound.
        largest: with its error bound.
        eigenvalues: all of them, ascending, float64; None where there were too many rows.
    """

    smallest: Eigenvalue
    largest: Eigenvalue
    eigenvalues: Tensor | None = None

    def scaled(self, factor: float) -> KernelSpectrum:
        """The spectrum of the kernel times a positive number."""
        ends = [
            Eigenvalue(factor * end.value, factor * end.error_bound, end.converged)
            for end in (self.smallest, self.largest)
        ]
        values = None if self.eigenvalues is None else factor * self.eigenvalues
        return KernelSpectrum(ends[0], ends[1], values)

    @property
    def condition_number(self) -> float:
        """Largest over smallest absolute value; infinite where that is zero to rounding."""
        if self.eigenvalues is not None and len(self.eigenvalues):
            sizes = self.eigenvalues.abs()
            low, high = float(sizes.min()), float(sizes.max())
        else:
            low, high = abs(self.smallest.value), abs(self.largest.value)
        if math.isnan(low):
            return math.nan
        return math.inf if low <= self.smallest.error_bound else high / low

    def newton(self, damping: float) -> KernelSpectrum:
        r"""The spectrum of the NNTK in Gauss-Newton form, :math:`\kappa/(\kappa + \lambda)`."""

        def mapped(eigenvalue: Eigenvalue) -> Eigenvalue:
            value, bound = eigenvalue.value, eigenvalue.error_bound
            low, high = _share(max(value - bound, 0.0), damping), _share(value + bound, damping)
            middle = _share(value, damping)
            # A sum and a quotient, each rounded for the value and for the bound.
            rounding = 4 * torch.finfo(torch.float64).eps * middle
            error = max(high - middle, middle - low) + rounding
            return Eigenvalue(middle, error, eigenvalue.converged)

        values = self.eigenvalues
        if values is not None:
            values = torch.where(values > 0, values / (values + damping), torch.zeros_like(values))
        return KernelSpectrum(mapped(self.smallest), mapped(self.largest), values)


def tangent_gram(outputs: Tensor, params: Sequence[Tensor]) -> Tensor:
    r"""The neural tangent kernel :math:`J J^T` of a module's outputs as a matrix, R x R.

    Its rows are in the order of ``outputs.reshape(-1)``: those of sample m and output c are at
    m C + c. Nothing of the size of J is formed where the graph can be read sample by sample.

    Args:
        outputs: of a module on a batch, with their graph; the first dimension counts samples.
        params: the parameters.

    Raises:
        KernelError: the outputs have no graph.
    """
    try:
        return jacobian_of(outputs, params).gram()
    except KernelError:
        if not outputs.requires_grad:
            raise
        return tangent_kernel(outputs, params).dense()


def kernel_spectrum(
    J: FactoredJacobian,
    *,
    epsilon: float,
    max_size: int = 2048,
    rank: int | None = None,
    products: int = 100,
    gram: Tensor | None = None,
) -> KernelSpectrum:
    """The eigenvalues of J J^T.

    All of them where the smaller of R and P is at most `max_size`; else the extreme ones, by
    `products` steps of the Lanczos process. What is zero to rounding is zero.

    Args:
        J: R x P.
        epsilon: unit of rounding of the arithmetic behind J.
        max_size: the largest matrix that is diagonalised. At the default that takes half
            a second on one core.
        rank: how many rows are independent, if it is known that the others are zero: as many
            eigenvalues are returned.
        products: Lanczos steps at most.
        gram: J J^T, or J^T J where P is the smaller, if it is at hand.
    """
    count = J.rows if rank is None else min(rank, J.rows)
    if count == 0:
        nothing = Eigenvalue(math.nan, math.inf, False)
        return KernelSpectrum(nothing, nothing, torch.empty(0, dtype=torch.float64))
    if min(J.shape) > max_size:
        return _extreme_spectrum(J, products, epsilon)
    by_singular_values = J.rows * J.shape[1] <= SINGULAR_VALUE_ENTRIES
    if by_singular_values:
        values, rounding = _squared_singular_values(J.dense().double(), epsilon)
    else:
        values, rounding = _gram_eigenvalues(J, gram, epsilon)
    if not bool(torch.isfinite(values).all()):
        unknown = Eigenvalue(math.nan, math.inf, False)
        return KernelSpectrum(unknown, unknown, torch.full((1,), math.nan, dtype=torch.float64))
    values = torch.cat([values.new_zeros(max(0, J.rows - len(values))), values.sort().values])
    values = values[-count:]

    def end(value: float) -> Eigenvalue:
        # A singular value s known to r has a square known to 2 s r + r^2.
        error = 2 * math.sqrt(value) * rounding + rounding**2 if by_singular_values else rounding
        return Eigenvalue(value, error, True)

    return KernelSpectrum(end(float(values[0])), end(float(values[-1])), values)


def _share(kappa: float, damping: float) -> float:
    return kappa / (kappa + damping) if kappa > 0 else 0.0


def _extreme_spectrum(J: FactoredJacobian, products: int, epsilon: float) -> KernelSpectrum:
    wide = J.rows <= J.shape[1]
    found = extreme_eigenvalues(J @ J.T if wide else J.T @ J, max_iter=products)
    # The entries of J are rounded, whatever the precision of the products made of them.
    rounding = found.products * epsilon * abs(found.largest.value)
    largest = found.largest.widened(rounding)
    if wide:
        return KernelSpectrum(found.smallest.widened(rounding), largest)
    # J J^T has the eigenvalues of J^T J, and zeros.
    return KernelSpectrum(Eigenvalue(0.0, 0.0, True), largest)


def _squared_singular_values(A: Tensor, epsilon: float) -> tuple[Tensor, float]:
    """Squares of the singular values of A, zero where that is their rounding, and the rounding."""
    # The triangular factor has the same singular values, and is small.
    wide = A.shape[0] < A.shape[1]
    small = torch.linalg.qr(A.T if wide else A, mode="r").R
    values: Tensor = torch.linalg.svdvals(small)
    rounding = _rounding_of_rows(max(A.shape), epsilon, values)
    return torch.where(values > rounding, values, torch.zeros_like(values)).square(), rounding


def _rounding_of_rows(count: int, epsilon: float, singular: Tensor) -> float:
    r"""How far rounding in the entries of J may move a singular value.

    :math:`n \varepsilon \sigma_{max}` for n rows or columns; in reduced precision
    :math:`8 \varepsilon |J|_F`, see `LIKELY`, where that is less.
    """
    worst = count * epsilon * float(singular.max())
    if epsilon <= SINGLE:
        return worst
    return min(worst, LIKELY * epsilon * float(torch.linalg.vector_norm(singular)))


def _gram_eigenvalues(
    J: FactoredJacobian, gram: Tensor | None, epsilon: float
) -> tuple[Tensor, float]:
    """Eigenvalues of the smaller Gram matrix, zero where that is their rounding, and the rounding.

    Args:
        J: R x P.
        gram: the matrix, if it is at hand.
        epsilon: unit of rounding of the arithmetic behind J.
    """
    if gram is None or len(gram) != min(J.shape):
        gram = J.gram() if J.rows <= J.shape[1] else _small_gram(J)
    gram = gram.double()
    values = torch.linalg.eigvalsh((gram + gram.T) / 2)
    rounding = rounding_of(values, epsilon)
    if epsilon > SINGLE:
        singular = values.clamp(min=0).sqrt()
        of_rows = _rounding_of_rows(len(values), epsilon, singular)
        rounding = min(rounding, 2 * float(singular.max()) * of_rows + of_rows**2)
    return torch.where(values > rounding, values, torch.zeros_like(values)), rounding


def _small_gram(J: FactoredJacobian) -> Tensor:
    """J^T J, P x P, where P is the smaller."""
    rows = J.dense().double()
    return rows.T @ rows
