"""Products with a matrix, counted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..linalg.operators import LinearOperator, symmetric


@dataclass
class Counter:
    """How many products were taken.

    It is no attribute of whoever takes them: the operator and its owner would refer to each
    other, and with them the graph of the loss would wait for the garbage collector.
    """

    products: int = 0


def counted(A: LinearOperator, counter: Counter) -> LinearOperator:
    """The symmetric A, P x P, that counts its products; a column of a matrix counts as one."""

    def product(v: Tensor) -> Tensor:
        counter.products += 1
        return A @ v

    def products(V: Tensor) -> Tensor:
        counter.products += V.shape[1]
        return A @ V

    # Without a faster way of its own each column is a product, and counted there.
    matmat = None if A.matmat is None else products
    return symmetric(A.shape[0], product, dtype=A.dtype, device=A.device, matmat=matmat)
