"""The tangent kernels at a point where there is no time to read the Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from torch_newton import Eigenvalue, KernelSpectrum, LinearOperator

from .allowance import Allowance
from .bounded import kernel_work
from .forming import seconds_to_diagonalise
from .kernel_products import KernelProducts
from .work import Work

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
    read: Callable[[], KernelProducts | None], at: Where, *, weighted: bool
) -> Work[KernelSpectrum | None]:
    """The extreme eigenvalues of J J^T, or of Q^{1/2} J J^T Q^{1/2}, from products.

    Args:
        read: returns J and Q as products of the graph that there is at the time.
        at: the point.
        weighted: whether with Q.

    Raises:
        OutOfTimeError: there is no time for them.
    """
    K = read()
    if K is None:
        return None
    allowance, (R, P) = at.allowance, K.J.shape
    guess = PRODUCT * allowance.estimate("gradient")

    def operator_now() -> LinearOperator:
        now = read()
        assert now is not None  # it was not, for the same loss
        return now.gauss_newton(at.scaling)[0] if weighted else now.kernel()[0]

    operator, start = K.gauss_newton(at.scaling) if weighted else K.kernel()
    lasting = renewed(operator_now, operator)
    del K, operator  # with their graph, which the next pause replaces
    # That of P x P has longer vectors, and is timed apart: it took up to three times as long.
    name = "weighted kernel" if weighted else "kernel"
    work = kernel_work(lasting, start, at.epsilon, allowance, at.products, guess, name)
    del start  # a vector, which would be held until this ends
    found = yield from work
    if R > P:  # there are more rows than parameters, so that some eigenvalues are zero
        return KernelSpectrum(Eigenvalue(0.0, 0.0, True), found.largest)
    return found


def renewed(now: Callable[[], LinearOperator], like: LinearOperator) -> LinearOperator:
    """An operator that outlives the graph which its products are taken from.

    Args:
        now: returns it as made from the present graph.
        like: of its shape; not kept.
    """

    def product(v: Tensor) -> Tensor:
        return now() @ v

    def transposed(u: Tensor) -> Tensor:
        return now().T @ u

    return LinearOperator(
        like.shape, product, transposed, like.dtype, like.device, product, transposed
    )
