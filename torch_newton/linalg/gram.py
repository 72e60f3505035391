"""Gram matrices, of a matrix and of rows that are held as factors.

They are symmetric, so only the lower half is computed and then mirrored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .factor import Factor

NARROW = 256
"""Columns up to which blocks of rows are put side by side before they are multiplied."""

PAIR = 1.5
"""What an operation in a product of a pair costs, in those of a product of rows; measured."""


def gram(factors: Sequence[Factor]) -> Tensor:
    r"""The sum of :math:`J J^T` over the factors, R x R, each the way that costs less.

    Either the rows are formed, or, of uses j and k,
    :math:`(L_j L_k^T) \circ (R_j R_k^T)` is.
    """
    size = factors[0].left.shape[0]
    total = factors[0].left.new_zeros(size, size)
    biases = {factor.layer: factor for factor in factors if factor.right is None}
    paired: set[Factor] = set()
    narrow = []
    for factor in factors:
        if factor.right is None:
            continue
        a, b = factor.left.shape[2], factor.right.shape[2]
        beside = factor.left.shape[1] == 1 and factor.layer in biases
        if a * b <= NARROW:
            narrow.append(factor.dense())
        elif beside and PAIR * (a + b) < a * b + a:
            # A bias beside its weight has the same L, and ones for R.
            paired.add(biases.pop(factor.layer))
            add_pairs(total, (factor.left, factor.right), (factor.left, factor.right), 1.0)
        else:
            _add(total, factor)
    narrow += [f.dense() for f in factors if f.right is None and f not in paired]
    if narrow:
        add_product(total, narrow[0] if len(narrow) == 1 else torch.cat(narrow, 1))
    return mirror(total)


def _add(total: Tensor, factor: Factor) -> None:
    """Add the lower half of one factor's Gram matrix, block by block."""
    blocks = factor.blocks()
    formed: dict[int, Tensor] = {}

    def rows(i: int) -> Tensor:
        if i not in formed:
            formed[i] = blocks[i][1].dense()
        return formed[i]

    for i, (down, one) in enumerate(blocks):
        for j, (across, other) in enumerate(blocks[: i + 1]):
            if one.right is None or other.right is None:
                continue
            target = total[down, across]
            uses, a, b = one.left.shape[1], one.left.shape[2], one.right.shape[2]
            if PAIR * uses * other.left.shape[1] * (a + b) < a * b:
                add_pairs(target, (one.left, one.right), (other.left, other.right))
            elif i == j:
                add_product(target, rows(i))
            else:
                target.addmm_(rows(i), rows(j).T)


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
