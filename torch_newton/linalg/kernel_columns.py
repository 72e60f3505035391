r"""Columns of the kernel :math:`J J^T`, from rows that are held as factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .factor import Factor
from .factored_jacobian import FactoredJacobian
from .gram import NARROW, PAIR, add_pairs
from .indexed_factor import IndexedFactor

SLICE = 2**21
"""Entries that are formed at a time, 16 MiB in double precision. Measured for 50 columns of a
10,456 x 7,851 kernel on two threads: 0.12 s; 0.15 with slices of 2^19, 0.24 with 2^17."""

BETWEEN = 200.0
"""Multiplications in the time in which the products of one pair of uses are multiplied with each
other and added up: few columns make short matrix products, and these wait for memory. Measured on
the same kernel, whose samples have four uses of a layer of 50 x 50: by pairs 0.53 and 0.85 s for 50
and 200 columns, with formed rows 0.12 and 0.26 s."""

Factors = Sequence[Factor | None]


def kernel_columns(jacobian: FactoredJacobian, chosen: FactoredJacobian) -> Tensor:
    r"""The columns :math:`J J_S^T` of the kernel, R x k.

    Factor by factor the way that costs less: the rows are formed, some at a time, or
    :math:`(L_j L_k'^T) \circ (R_j R_k'^T)` is, for each pair of uses (`linalg.gram`).

    Args:
        jacobian: J, R rows.
        chosen: J_S, some of its rows, k.
    """
    rows = jacobian.at_hand
    total = torch.zeros(rows.rows, chosen.rows, dtype=rows.dtype, device=rows.device)
    return jacobian.of_all_rows(columns(rows.factors, chosen.factors, total))


def columns(factors: Factors, chosen: Factors, total: Tensor) -> Tensor:
    """The same of factors, one for each parameter, added to R x k entries."""
    for factor, other in zip(factors, chosen, strict=True):
        if factor is None or other is None:
            continue
        if isinstance(factor, IndexedFactor) and isinstance(other, IndexedFactor):
            total += _of_table(factor, other)
        else:
            _add(total, factor, other)
    return total


def _add(total: Tensor, factor: Factor, other: Factor) -> None:
    """Add those of one parameter, some rows at a time."""
    right, other_right, pairs = factor.right, other.right, False
    if right is not None and other_right is not None:
        uses, a, b = factor.left.shape[1], factor.left.shape[2], right.shape[2]
        pair = PAIR * (a + b) + BETWEEN
        pairs = a * b > NARROW and uses * other.left.shape[1] * pair < a * b
    formed = None if pairs else other.dense().T
    step = max(1, SLICE // max(factor.size, total.shape[1]))
    for start in range(0, len(total), step):
        rows = slice(start, start + step)
        part = Factor(factor.left[rows], None if right is None else right[rows])
        if formed is not None:
            total[rows].addmm_(part.dense(), formed)
        elif part.right is not None and other_right is not None:
            add_pairs(total[rows], (part.left, part.right), (other.left, other_right))


def _of_table(factor: IndexedFactor, other: IndexedFactor) -> Tensor:
    """The columns of a table's factor, in the rows of the table that the chosen rows use."""
    used = torch.unique(other.index)
    place = torch.searchsorted(used, factor.index).clamp_max(len(used) - 1)
    hit = used[place] == factor.index
    within = replace(factor, left=factor.left * hit[:, :, None], index=place, number=len(used))
    inner = replace(other, index=torch.searchsorted(used, other.index), number=len(used))
    return within.matmat(inner.dense().T)
