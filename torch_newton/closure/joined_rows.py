"""The factors of a Jacobian whose rows several processes have read."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.indexed_factor import IndexedFactor


def joined_rows(
    jacobian: FactoredJacobian, kinds: Tensor, total: int, gathered: Callable[[Tensor], Tensor]
) -> FactoredJacobian | None:
    """The factors of all ranks one below the other; None where they are of several kinds.

    Args:
        jacobian: the rows of this rank.
        kinds: what `kind_of` says of each parameter's factor, for each rank.
        total: the number of rows of all ranks.
        gathered: the parts of all ranks, one below the other.
    """
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
            lefts[first] = gathered(_filled(left, (jacobian.rows, uses, a), like))
        if b < 0:
            index = None if not isinstance(factor, IndexedFactor) else factor.index[:, :, None]
            mine = _filled(index, (jacobian.rows, uses, 1), like.new_empty(0).long())
            index = gathered(mine)[:, :, 0]
            factors.append(IndexedFactor(lefts[first], None, index=index, number=-b))
            continue
        right = None
        if b > 0:
            own = None if factor is None else factor.right
            right = gathered(_filled(own, (jacobian.rows, uses, b), like))
        factors.append(Factor(lefts[first], right))
    return FactoredJacobian(factors, jacobian.like, total)


def kind_of(factor: Factor | None, i: int, owner: dict[int, int]) -> list[int]:
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


def alike(jacobian: FactoredJacobian, kinds: Tensor) -> FactoredJacobian:
    """The same rows with factors of a kind that all ranks have: in full, where theirs differ."""
    factors: list[Factor | None] = []
    for i, (factor, param) in enumerate(zip(jacobian.factors, jacobian.like, strict=True)):
        if len({tuple(kind) for kind in kinds[:, i, 1:3].tolist()}) > 1:
            nothing = param.new_zeros(jacobian.rows, param.numel())
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
