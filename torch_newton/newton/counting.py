"""An operator that counts its products."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..linalg.operators import LinearOperator, symmetric


@dataclass
class Counter:
    """How many products were taken.

    It is apart from what holds the operator: the two would refer to each other, and with them the
    graph of the loss would wait for the garbage collector.
    """

    products: int = 0


def counted(A: LinearOperator, counter: Counter) -> LinearOperator:
    """The same symmetric operator; each of its products, and each column of one, is counted."""

    def product(v: Tensor) -> Tensor:
        counter.products += 1
        return A.matvec(v)  # `@` would hold on to v until it has the product

    def columns(V: Tensor) -> Tensor:
        counter.products += V.shape[1]
        return A @ V

    # Without a faster way of its own each column is a product, and counted there.
    return symmetric(
        A.shape[0],
        product,
        dtype=A.dtype,
        device=A.device,
        matmat=None if A.matmat is None else columns,
    )
