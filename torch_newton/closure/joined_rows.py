"""The rows of all ranks as one function space: apart, or gathered where they are fewer than P."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.indexed_factor import IndexedFactor
from ..preconditioners import cost
from ..preconditioners.function_space import FunctionSpace
from .distributed import Ranks
from .shared_rows import Exchange, SharedSpace


def joined(ranks: Ranks, space: FunctionSpace | None, like: Tensor) -> FunctionSpace | None:
    """The rows of all ranks; None where some rank has none, or they exceed the budget."""
    if not ranks.active:
        return space
    if space is not None and not space.whole:
        space = None  # ranks need not leave out the same parameters
    mine = (0, True) if space is None else (space.jacobian.rows, space.sums_up)
    found = ranks.gather(torch.tensor(mine, dtype=torch.long, device=like.device))
    rows, sums_up = found[:, 0].tolist(), bool(found[:, 1].all())
    size = like.numel() if space is None else space.size
    total = sum(rows)
    if space is None or min(rows) == 0:
        return None
    # Rows that stay where they are take no memory of the others.
    largest = total if total <= size else max(size, *rows)
    if not cost.worth_a_factor(largest, size, space.dtype.itemsize):
        return None

    def target_at(loss: Tensor) -> Tensor | None:
        mine = space.target_at(loss)
        if not ranks.everywhere(mine is not None, like) or mine is None:
            return None
        return ranks.rows(mine, rows)

    kinds = _kinds(ranks, space.jacobian)
    if size < total:
        jacobian = _alike(space.jacobian, kinds)
        own = FunctionSpace(
            jacobian, space.target, space.gradient, reading=space.reading, sums_up=sums_up
        )
        start = sum(rows[: ranks.number])
        exchange = Exchange(
            ranks.total,
            lambda part: ranks.rows(part, rows),
            slice(start, start + jacobian.rows),
            total,
            target_at,
        )
        joined: FunctionSpace = SharedSpace(own, exchange)
    else:
        whole = _tangents(ranks, space.jacobian, rows, kinds)
        if whole is None:
            return None
        target = ranks.rows(space.target, rows)
        joined = FunctionSpace(
            whole, target, target_at=target_at, reading=space.reading, sums_up=sums_up
        )
    return joined.times(1 / math.sqrt(ranks.world))


def _kinds(ranks: Ranks, jacobian: FactoredJacobian) -> Tensor:
    """What `_kind` says of the factor of each parameter, for each rank."""
    owner: dict[int, int] = {}
    kinds = [_kind(factor, i, owner) for i, factor in enumerate(jacobian.factors)]
    return ranks.gather(torch.tensor(kinds, device=jacobian.like[0].device))


def _tangents(
    ranks: Ranks, jacobian: FactoredJacobian, rows: list[int], kinds: Tensor
) -> FactoredJacobian | None:
    """The factors of all ranks one below the other; None where they are of several kinds."""
    like = jacobian.like[0].new_empty(0, dtype=jacobian.dtype)
    lefts: dict[int, Tensor] = {}
    factors: list[Factor | None] = []
    for i, factor in enumerate(jacobian.factors):
        uses = int(kinds[:, i, 0].max())
        found = {tuple(kind) for kind in kinds[:, i, 1:].tolist() if kind[0] > 0}
        if len(found) > 1:
            return None
        if not found:
            factors.append(None)
            continue
        a, b, first = found.pop()
        if first not in lefts or lefts[first].shape[1:] != (uses, a):
            left = None if factor is None else factor.left
            lefts[first] = ranks.rows(_filled(left, (jacobian.rows, uses, a), like), rows)
        right = None
        if b < 0:
            index = None if not isinstance(factor, IndexedFactor) else factor.index[:, :, None]
            whole = _filled(index, (jacobian.rows, uses, 1), like.new_empty(0).long())
            index = ranks.rows(whole, rows)[:, :, 0]
            factors.append(IndexedFactor(lefts[first], None, index=index, number=-b))
            continue
        if b > 0:
            mine = None if factor is None else factor.right
            right = ranks.rows(_filled(mine, (jacobian.rows, uses, b), like), rows)
        factors.append(Factor(lefts[first], right))
    return FactoredJacobian(factors, jacobian.like, sum(rows))


def _kind(factor: Factor | None, i: int, owner: dict[int, int]) -> list[int]:
    """Uses, columns of L and R, and the first parameter that has the same L.

    In place of the columns of R there is 0 where there is no R, and minus the number of its rows
    for a table.
    """
    if factor is None:
        return [0] * 4
    right = 0 if factor.right is None else factor.right.shape[2]
    if isinstance(factor, IndexedFactor):
        right = -factor.number
    first = owner.setdefault(factor.layer, i)
    return [factor.left.shape[1], factor.left.shape[2], right, first]


def _alike(jacobian: FactoredJacobian, kinds: Tensor) -> FactoredJacobian:
    """The same rows with factors of a kind that all ranks have: in full, where theirs differ."""
    factors: list[Factor | None] = []
    for i, (factor, param) in enumerate(zip(jacobian.factors, jacobian.like, strict=True)):
        if len({tuple(kind) for kind in kinds[:, i, 1:3].tolist()}) > 1:
            nothing = param.new_zeros(jacobian.rows, param.numel(), dtype=jacobian.dtype)
            rows = nothing if factor is None else factor.dense()
            factors.append(Factor(rows[:, None], None))
        else:
            factors.append(factor)
    return FactoredJacobian(factors, jacobian.like, jacobian.rows)


def _filled(part: Tensor | None, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    full = like.new_zeros(shape)
    if part is not None:
        full[:, : part.shape[1]] = part
    return full
