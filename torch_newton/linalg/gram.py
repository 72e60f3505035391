r"""Gram matrices :math:`A A^T`, of matrices and of rows that are held as factors.

A Gram matrix is symmetric, so the lower half is computed, in blocks, and then copied to the upper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .factor import Factor
from .indexed_factor import IndexedFactor

NARROW = 256
"""Columns up to which the rows of several parameters are formed and multiplied as one matrix.
Measured on one core with 100 to 1,000 rows, against a product for each: 0.5 to 0.9 of the time up
to 64 columns, as much near 144, and 1.1 times as much at 256. A lower limit would gain a little
and round every step otherwise."""

PAIR = 1.5
r"""Cost of one multiplication in :math:`(L_j L_k^T) \circ (R_j R_k^T)`, whose factors are short,
in multiplications of a product of formed rows. Measured on one core: 1.7 for vectors of 32
entries, and less for longer ones; 2.5 for 16, which `NARROW` keeps away from this choice."""

BLOCKS = 4
"""Blocks of rows in which a lower half is computed: with B of them it takes (B + 1)/(2 B) of the
operations, 5/8 for four. Measured: 0.67 to 0.8 of the time from 240 rows on; eight blocks are
faster only from 640 rows on, and by little."""

SMALL = 160
"""Rows up to which one whole product is as fast as several for the lower half: measured, 1.4 of
its time at 80 rows, 0.9 at 160, 0.8 at 240."""

Pair = tuple[Tensor, Tensor]
"""L, R x K x a, and R, R x K x b."""


def gram(factors: Sequence[Factor]) -> Tensor:
    r"""The sum of :math:`J J^T` over the factors, R x R, each the way that costs less.

    Either the rows are formed, or :math:`(L_j L_k^T) \circ (R_j R_k^T)` is, for each pair of
    uses j and k.
    """
    size = factors[0].left.shape[0]
    total = factors[0].left.new_zeros(size, size)
    tables = [factor for factor in factors if isinstance(factor, IndexedFactor)]
    factors = [factor for factor in factors if not isinstance(factor, IndexedFactor)]
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
            # A bias beside its weight has the same L, and a one in place of R, which adds one
            # to every product of two R.
            paired.add(biases.pop(factor.layer))
            add_pairs(total, (factor.left, factor.right), (factor.left, factor.right), 1.0)
        else:
            _add(total, factor)
    for table in tables:
        table.add_gram(total)
    narrow += [f.dense() for f in factors if f.right is None and f not in paired]
    if narrow:
        add_product(total, narrow[0] if len(narrow) == 1 else torch.cat(narrow, 1))
    return mirror(total)


def _add(total: Tensor, factor: Factor) -> None:
    """Add the lower half of one factor's Gram matrix, block by block of equally many uses."""
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


def symmetric_product(A: Tensor) -> Tensor:
    """A A^T, R x R, for A of R x P."""
    if len(A) <= SMALL:
        return A @ A.T
    total = A.new_zeros(len(A), len(A))
    add_product(total, A)
    return mirror(total)


def add_product(total: Tensor, A: Tensor) -> None:
    """Add the lower half of A A^T, in blocks, to `total`."""
    for start, end in _blocks(len(A)):
        total[start:end, :end].addmm_(A[start:end], A[:end].T)


def add_pairs(total: Tensor, one: Pair, other: Pair, shift: float = 0.0) -> None:
    r"""Add :math:`\sum_{jk} (L_j L_k'^T) \circ (R_j R_k'^T + c)` to `total`.

    Where the two pairs are the same, only its lower half, in blocks.

    Args:
        total: R x R'.
        one: L and R.
        other: L' and R'.
        shift: c.
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


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Where each block of rows begins and ends."""
    step = size if size <= SMALL else -(-size // BLOCKS)
    return ((start, min(start + step, size)) for start in range(0, size, step))
