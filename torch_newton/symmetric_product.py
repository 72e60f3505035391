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


def add_product(total: Tensor, A: Tensor) -> None:
    """Add the lower half of A A^T, in blocks, to `total`."""
    for start, end in _blocks(len(A)):
        total[start:end, :end].addmm_(A[start:end], A[:end].T)


def add_pairs(total: Tensor, left: Tensor, right: Tensor, shift: float = 0.0) -> None:
    r"""Add :math:`\sum_{jk} (L_j L_k^T) \circ (R_j R_k^T + c)`, the lower half of it."""
    uses = left.shape[1]
    for start, end in _blocks(len(left)):
        for j in range(uses):
            for k in range(uses):
                products = right[start:end, j] @ right[:end, k].T
                if shift:
                    products += shift
                total[start:end, :end].addcmul_(left[start:end, j] @ left[:end, k].T, products)


def mirror(total: Tensor) -> Tensor:
    """Write the lower half, as the functions above have left it, to the upper one."""
    for start, end in _blocks(len(total)):
        total[:start, start:end] = total[start:end, :start].T
    return total
