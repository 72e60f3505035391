"""The rows of all ranks as one Jacobian: apart, or on every rank where they are fewer than P."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..graph.use import MAX_ENTRIES
from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.indexed_factor import IndexedFactor
from ..linalg.precision import solving_dtype
from ..preconditioners import cost
from ..preconditioners.function_space import FunctionSpace, within_budget
from ..preconditioners.held_rows import VECTORS
from ..preconditioners.linearized_loss import LinearizedLoss
from ..preconditioners.low_rank import LowRankSpace
from .distributed import Ranks
from .shared_rows import Exchange, SharedJacobian, made_of, tensors_of

ANY = -1
"""In place of the bytes of memory of a rank that sets no bound."""


def joined(
    ranks: Ranks,
    found: LinearizedLoss | None,
    like: Sequence[Tensor],
    max_memory: int | None,
    proposed: Sequence[int],
) -> FunctionSpace | LowRankSpace | None:
    """What a loss is solved with, as one process would with the rows of all ranks.

    Args:
        ranks: that have rows.
        found: those of this one; None where it has none that could be read.
        like: the P parameters.
        max_memory: bytes of the matrices of a solve on this rank; the least of all ranks counts.
        proposed: rows for a factor of low rank to choose from first.

    Returns:
        None where some rank could not read all of its rows.
    """
    if not ranks.active:
        if found is None or within_budget(found.jacobian, max_memory):
            return None if found is None else FunctionSpace.of(found)
        return LowRankSpace.of(found, max_memory, proposed)
    table = _table(ranks, found, like[0], max_memory)
    rows, memory = table[:, 0].tolist(), _least(table[:, 3].tolist())
    if found is None or not bool(table[:, 1].all()) or sum(rows) == 0:
        return None
    found = replace(found, jacobian=alike(ranks, found.jacobian), gradient=None)
    total, size = sum(rows), found.jacobian.shape[1]
    kind = solving_dtype(found.jacobian.dtype, found.jacobian.device)
    entry = cost.entry_operations(found.jacobian.factors, total)
    direct = cost.worth_a_factor(total, size, kind.itemsize, entry=entry, max_memory=memory)
    rows_of_all = _Joined(ranks, found.to(kind) if direct else found, rows)
    # On every rank they may take what `held_rows` always allows those of one process.
    held = total * _entries_of_a_row(found.jacobian) <= max(MAX_ENTRIES, VECTORS * size)
    if direct and (size < total or held):
        return rows_of_all.space(bool(table[:, 2].all()), apart=size < total)
    return rows_of_all.low_rank(memory, proposed)


def _table(
    ranks: Ranks, found: LinearizedLoss | None, like: Tensor, max_memory: int | None
) -> Tensor:
    """For each rank: rows, whether they are whole, whether they sum up, and its memory."""
    mine = [0, 0, 0, ANY if max_memory is None else max_memory]
    if found is not None:
        mine[:3] = [found.jacobian.rows, found.whole, found.gradient is not None]
    return ranks.gather(torch.tensor(mine, dtype=torch.long, device=like.device))


def _least(memory: Sequence[int]) -> int | None:
    return min((bytes_ for bytes_ in memory if bytes_ != ANY), default=None)


def _entries_of_a_row(jacobian: FactoredJacobian) -> int:
    return sum(part[:1].numel() for part in tensors_of(jacobian).values())


@dataclass(frozen=True)
class _Joined:
    """The rows of all ranks, as those of the mean of their losses.

    Attributes:
        ranks: that have them.
        own: those of this one.
        rows: how many each has.
    """

    ranks: Ranks
    own: LinearizedLoss
    rows: list[int]

    def space(self, sums_up: bool, apart: bool) -> FunctionSpace:
        """The function space; where the rows are not left `apart` every rank gets all of them."""
        jacobian = self._apart() if apart else self._gathered()
        return FunctionSpace(
            jacobian.times(self._share),
            self._target(),
            target_at=self._target_at,
            reading=self.own.reading,
            sums_up=sums_up,
        )

    def low_rank(self, max_memory: int | None, proposed: Sequence[int]) -> LowRankSpace:
        """The rows, apart, for an iterative solve."""
        return LowRankSpace(
            self._apart().times(self._share),
            self._target(),
            self._target_at,
            reading=self.own.reading,
            max_memory=max_memory,
            proposed=proposed,
        )

    @property
    def _share(self) -> float:
        """The root of the weight that each rank's loss has in their mean."""
        return 1 / math.sqrt(self.ranks.world)

    def _rows(self, part: Tensor) -> Tensor:
        return self.ranks.rows(part, self.rows)

    def _apart(self) -> FactoredJacobian:
        start, mine = sum(self.rows[: self.ranks.number]), self.own.jacobian.rows
        place = slice(start, start + mine)
        exchange = Exchange(self.ranks.total, self._rows, place, sum(self.rows))
        return SharedJacobian(self.own.jacobian, exchange)

    def _gathered(self) -> FactoredJacobian:
        own = self.own.jacobian
        parts = {key: self._rows(part) for key, part in tensors_of(own).items()}
        return made_of(own, parts, sum(self.rows))

    def _target(self) -> Tensor:
        return self._rows(self.own.target) * self._share

    def _target_at(self, loss: Tensor) -> Tensor | None:
        """The target of all ranks at another point; None where one of them has none."""
        mine = self.own.target_at(loss)
        if not self.ranks.everywhere(mine is not None, loss) or mine is None:
            return None
        return self._rows(mine) * self._share


def alike(ranks: Ranks, jacobian: FactoredJacobian) -> FactoredJacobian:
    """The same rows, of factors that have the same shape on every rank but for their number.

    Where ranks have factors of several shapes for a parameter its rows are formed; where some
    have more uses than others these are filled up with zeros, and so is a parameter that does
    not occur in the loss of some.
    """
    kinds, width = _kinds(ranks, jacobian), jacobian.rows
    lefts: dict[int, Tensor] = {}
    factors: list[Factor | None] = []
    for i, (factor, param) in enumerate(zip(jacobian.factors, jacobian.like, strict=True)):
        known = [tuple(kind) for kind in kinds[:, i].tolist() if kind[0] > 0]
        like = param.new_empty(0, dtype=jacobian.dtype)
        if not known:
            factors.append(None)
        elif len({kind[1:3] for kind in known}) > 1:
            rows = like.new_zeros(width, param.numel()) if factor is None else factor.dense()
            factors.append(Factor(rows[:, None], None))
        else:
            uses, (_, a, b, first) = max(kind[0] for kind in known), known[0]
            shared = all(kind[3] == first for kind in known)
            key = first if shared else i
            if key not in lefts:
                left = None if factor is None else factor.left
                lefts[key] = _filled(left, (width, uses, a), like, copied=not shared)
            factors.append(_with_uses(factor, lefts[key], b, like))
    return jacobian.with_factors(factors)


def _with_uses(factor: Factor | None, left: Tensor, b: int, like: Tensor) -> Factor:
    """The factor with L and as many uses as that has; of zeros where there is none.

    Args:
        factor: that of this rank.
        left: its L.
        b: as in `_kind`.
        like: a tensor of its precision.
    """
    if factor is not None and factor.left is left:
        return factor
    rows, uses, _ = left.shape
    if b < 0:
        index = factor.index[:, :, None] if isinstance(factor, IndexedFactor) else None
        places = _filled(index, (rows, uses, 1), like.new_empty(0, dtype=torch.long))[:, :, 0]
        return IndexedFactor(left, None, index=places, number=-b)
    if b == 0:
        return Factor(left, None)
    right = None if factor is None else factor.right
    return Factor(left, _filled(right, (rows, uses, b), like))


def _filled(
    part: Tensor | None, shape: tuple[int, int, int], like: Tensor, copied: bool = False
) -> Tensor:
    """A tensor with zeros for the uses that it lacks; itself, where it lacks none."""
    if part is not None and part.shape == shape and not copied:
        return part
    full = like.new_zeros(shape)
    if part is not None:
        full[:, : part.shape[1]] = part
    return full


def _kinds(ranks: Ranks, jacobian: FactoredJacobian) -> Tensor:
    """What `_kind` says of the factor of each parameter, for each rank."""
    owner: dict[int, int] = {}
    kinds = [_kind(factor, i, owner) for i, factor in enumerate(jacobian.factors)]
    return ranks.gather(torch.tensor(kinds, device=jacobian.like[0].device))


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
