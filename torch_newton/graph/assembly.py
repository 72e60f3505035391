"""A Jacobian put together from what was read of it: several uses of a parameter, several terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.indexed_factor import IndexedFactor

Part = dict[int, Factor]
"""The rows of one term, by the number of the parameter."""


def joined(factors: Sequence[Factor]) -> Factor:
    """The sum of rows for one parameter, as their own numbers where these are fewer."""
    if len(factors) > 1:
        tables = [factor for factor in factors if isinstance(factor, IndexedFactor)]
        if len(tables) == len(factors):
            index = torch.cat([table.index for table in tables], 1)
            return IndexedFactor.of(
                index, torch.cat([f.left for f in factors], 1), tables[0].number
            )
        factors = [_plain(factor) for factor in factors]
        rights = [factor.right for factor in factors if factor.right is not None]
        if len(rights) == len(factors) and len(set(map(_widths, factors))) == 1:
            factor = Factor(torch.cat([f.left for f in factors], 1), torch.cat(rights, 1))
        elif rights:
            factor = _formed(torch.stack([f.dense() for f in factors]).sum(0))
        else:
            factor = Factor(torch.cat([f.left for f in factors], 1), None)
    else:
        factor = factors[0]
    return _formed(factor.dense()) if factor.is_small() else factor


def _plain(factor: Factor) -> Factor:
    return factor.plain() if isinstance(factor, IndexedFactor) else factor


def _widths(factor: Factor) -> tuple[int, int]:
    """Entries of L and R in each use: those of a vector may be in either."""
    return factor.left.shape[2], 0 if factor.right is None else factor.right.shape[2]


def _formed(rows: Tensor) -> Factor:
    return Factor(rows[:, None], None)


def stack(
    parts: Sequence[Part], params: Sequence[Tensor], sizes: Sequence[int]
) -> FactoredJacobian:
    """The rows of several terms, of `sizes` rows each, one below the other."""
    if len(parts) == 1:
        return FactoredJacobian([parts[0].get(i) for i in range(len(params))], params, sizes[0])
    shared: dict[tuple[int, ...], Tensor] = {}
    factors = [_stacked([part.get(i) for part in parts], sizes, shared) for i in range(len(params))]
    return FactoredJacobian(factors, params, sum(sizes))


def _stacked(
    column: Sequence[Factor | None], sizes: Sequence[int], shared: dict[tuple[int, ...], Tensor]
) -> Factor | None:
    """The factors of one parameter, those of fewer uses filled up with zeros.

    Args:
        column: its factor in each term; None where a term does not depend on it.
        sizes: rows of each term.
        shared: what has been stacked of L so far, by the layers that it is of: a weight and its
            bias share theirs before and after.
    """
    known = [factor for factor in column if factor is not None]
    if not known:
        return None
    tables = [factor for factor in known if isinstance(factor, IndexedFactor)]
    if len(tables) == len(known):
        return _stacked_tables([f if isinstance(f, IndexedFactor) else None for f in column], sizes)
    if tables:
        column = [None if factor is None else _plain(factor) for factor in column]
        known = [factor for factor in column if factor is not None]
    if len({_widths(factor) for factor in known}) > 1:  # no form holds both kinds but rows
        formed = [None if factor is None else factor.dense()[:, None] for factor in column]
        return Factor(_filled(formed, sizes), None)
    layers = tuple(0 if factor is None else factor.layer for factor in column)
    if layers not in shared:
        shared[layers] = _filled([None if f is None else f.left for f in column], sizes)
    if known[0].right is None:
        return Factor(shared[layers], None)
    rights = [None if factor is None else factor.right for factor in column]
    counts = [0 if factor is None else factor.left.shape[1] for factor in column]
    uses = () if len(set(counts)) == 1 else tuple(zip(sizes, counts, strict=True))
    return Factor(shared[layers], _filled(rights, sizes), uses)


def _stacked_tables(column: Sequence[IndexedFactor | None], sizes: Sequence[int]) -> Factor:
    number = next(factor.number for factor in column if factor is not None)
    left = _filled([None if f is None else f.left for f in column], sizes)
    index = _filled([None if f is None else f.index[:, :, None] for f in column], sizes)
    return IndexedFactor(left, None, index=index[:, :, 0], number=number)


def _filled(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    known = [part for part in parts if part is not None]
    uses = max(part.shape[1] for part in known)
    if len(known) == len(parts) and all(part.shape[1] == uses for part in known):
        return torch.cat(known)
    full = known[0].new_zeros(sum(sizes), uses, known[0].shape[2])
    for part, rows in zip(parts, torch.split(full, list(sizes)), strict=True):
        if part is not None:
            rows[:, : part.shape[1]] = part
    return full
