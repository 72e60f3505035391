"""A A^T by its lower half: what a Cholesky factor reads, in three quarters of the time or less."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

BLOCKS = 4
SMALL = 160
"""Rows up to which one product is faster than several."""


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    step = size if size <= SMALL else -(-size // BLOCKS)
    return ((start, min(start + step, size)) for start in range(0, size, step))


def symmetric_product(A: Tensor) -> Tensor:
    """A A^T."""
    if len(A) <= SMALL:
        return A @ A.T
    total = A.new_zeros(len(A), len(A))
    add_product(total, A)
    return mirror(total)


def add_product(total: Tensor, A: Tensor) -> None:
    """Add the lower half of A A^T, in blocks, to `total`."""
    for start, end in _blocks(len(A)):
        total[start:end, :end].addmm_(A[start:end], A[:end].T)


Factors = tuple[Tensor, Tensor]
"""L, R x K x a, and R, R x K x b."""


def add_pairs(total: Tensor, one: Factors, other: Factors, shift: float = 0.0) -> None:
    r"""Add :math:`\sum_{jk} (L_j L_k'^T) \circ (R_j R_k'^T + c)`.

    Where the two are the same, the lower half of it in blocks.
    """
    (left, right), (left_, right_) = one, other
    same = left is left_
    for start, end in _blocks(len(left)) if same else [(0, len(left))]:
        to = end if same else len(left_)
        for j in range(left.shape[1]):
            for k in range(left_.shape[1]):
                products = right[start:end, j] @ right_[:to, k].T
                if shift:
                    products += shift
                total[start:end, :to].addcmul_(left[start:end, j] @ left_[:to, k].T, products)


def mirror(total: Tensor) -> Tensor:
    """Write the lower half of a matrix to its upper half."""
    for start, end in _blocks(len(total)):
        total[:start, start:end] = total[start:end, :start].T
        block = total[start:end, start:end].tril()
        total[start:end, start:end] = block + block.tril(-1).T
    return total
