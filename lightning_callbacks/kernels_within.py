"""The tangent kernels at a point where there is no time to read the Jacobian."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from torch_newton import Eigenvalue, KernelSpectrum

from .allowance import Allowance
from .bounded import LEAST, kernel_within, seconds_to_diagonalise
from .kernel_products import KernelProducts

FLOPS = 1e10
"""Operations a second that a matrix product is reckoned with: half of what two cores gave in
double precision, since the factors of a Jacobian are often narrow."""


PRODUCT = 3.0
"""What a product with a kernel is reckoned to take before one is timed, in evaluations of the loss
and its gradient with a graph. Measured were 0.6 for a transformer, 2.4 for convolutions and 5.7
for an LSTM, the first product included, which makes the graph that the others use."""


class Where(Protocol):
    """What of a point these kernels depend on."""

    @property
    def epsilon(self) -> float: ...
    @property
    def allowance(self) -> Allowance: ...
    @property
    def scaling(self) -> Tensor | None: ...
    @property
    def products(self) -> int: ...


def seconds_to_read(K: KernelProducts, allowance: Allowance) -> float:
    """An estimate of what reading the Jacobian and diagonalising its kernel take.

    Reading takes a backward pass for each of the C outputs of a sample, up to twice over, and the
    Gram matrix at most 2 R^2 P operations. What cannot be read is formed by a pass for each row,
    which is refused when that turns out.
    """
    R, P = K.J.shape
    passes = 2 * K.columns * allowance.estimate("gradient")
    small = min(R, P)
    return passes + 4 * R * small * P / FLOPS + 2 * seconds_to_diagonalise(small)


def kernel_of_products(
    K: KernelProducts | None, at: Where, *, weighted: bool
) -> KernelSpectrum | None:
    """The extreme eigenvalues of J J^T, or of Q^{1/2} J J^T Q^{1/2}, from products.

    Raises:
        OutOfTimeError: there is no time for them.
    """
    if K is None:
        return None
    allowance, (R, P) = at.allowance, K.J.shape
    guess = PRODUCT * allowance.estimate("gradient")
    allowance.require(LEAST * allowance.estimate("kernel", guess))
    operator, start = K.gauss_newton(at.scaling) if weighted else K.kernel()
    operator = allowance.timed(operator, "kernel")
    found = kernel_within(operator, start, at.epsilon, allowance, at.products)
    if R > P:  # there are more rows than parameters, so that some eigenvalues are zero
        return KernelSpectrum(Eigenvalue(0.0, 0.0, True), found.largest)
    return found
