r"""Scaled damping, (A + lambda D) d = -g, with D like the diagonal of J^T J.

Where parameters have different units, or one layer's gradients are a hundred times another's,
lambda I holds some back and lets others run; Marquardt's lambda D (1963) does not depend on their
scale. D is kept as large as it has ever been (Moré 1978, *The Levenberg-Marquardt algorithm:
implementation and theory*, section 4).

For a weight matrix with rows :math:`J_m = \sum_k L_{mk} \otimes R_{mk}`, D is the matrix of rank
one with the same row and column sums as the diagonal (as Adafactor, Shazeer and Stern 2018), so
that the scaled rows keep their form: L and R are scaled, and the Gram matrix costs what it did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ..linalg.factored_jacobian import Factor, FactoredJacobian
from ..linalg.indexed_factor import IndexedFactor

FLOOR = 1e-3
"""Smallest row or column sum of a weight matrix, relative to its largest. Units of one layer that
hardly do anything yet may so move 1 / sqrt(1e-3) = 32 times as far as the others, and not without
bound."""

LEAST_INFLUENCE = 3 / 4
"""Exponent of the dtype's epsilon in the smallest influence that D tells from none: 2e-12 in double
and 6e-6 in single precision, squared, relative to the largest. The influence of a parameter is
D theta^2, what a change of its own size does to the outputs, whatever its units. A bias in front
of a batch normalisation and the bias of attention's keys have no influence but for rounding, and
D made of that, 1e-31 of the largest, would be divided by: such parameters ran to 1e10 in sixty
steps. NIST's regressions, whose parameters differ in units by up to 1e10, are solved in the same
1,090 steps as without a floor; with 1e-6 in double precision they take twice as many."""

NO_SIZE = 1e-3
"""Size of a parameter that is zero, such as a fresh bias, relative to the root mean square of all
parameters: its own size says nothing yet."""

FARTHEST = 10.0
"""Root mean square by which a step may move a tensor, relative to its own or to that of all
parameters, whichever is larger. A direction of little influence is damped as little, and one step
moved the gates of an LSTM a thousand times as far as their size: what the linearization says of so
long a step is not true, and they stayed saturated. NIST's regressions and the benchmark problems
hardly ever meet the limit."""

LIFT = 2.0
"""Factor in `Scaling.limited` beyond the square of the excess. A step that is damped alone is as
long as 1 / D, and one that rows also hold back is nearer to the root of that."""

MOST = 1e6
"""Excess that is undone at once: the square of a larger one overflows in single precision, and a D
that is infinite would keep its tensor from ever moving again. What is left is undone by the next
of `LIFTS`."""

NAMES = ("scaling_rows", "scaling_columns")
"""Where an optimizer's state keeps the tensors of a part; the first alone is the diagonal."""

Part = tuple[Tensor, ...]
"""Of one parameter: the diagonal itself, or its row sums and its column sums."""


class Variables(Protocol):
    """A change of variables by a diagonal that leaves factored rows their form."""

    @property
    def vector(self) -> Tensor:
        """The diagonal, P entries."""

    def apply(self, jacobian: FactoredJacobian) -> FactoredJacobian:
        """The rows times the diagonal."""


@dataclass(frozen=True)
class Scaling:
    r"""D of a Jacobian, and the change of variables :math:`\theta = D^{-1/2} \varphi`.

    Attributes:
        parts: one for each parameter; None where no row has depended on it.
        like: the parameters.
    """

    parts: list[Part | None]
    like: Sequence[Tensor]

    @classmethod
    def of(cls, jacobian: FactoredJacobian, shift: Tensor | None = None) -> Scaling:
        """D of these rows alone.

        Args:
            jacobian: the rows, R x P.
            shift: tau, an estimate of the trace of their block of J^T J, for parameters that
                the Jacobian leaves out, zero for others (`left_out.shift_of`); D is the mean of
                that block's diagonal for them.
        """
        # In the precision of the parameters, in which an optimizer's state keeps it.
        kind = jacobian.like[0].dtype
        parts = [None if factor is None else _part(factor) for factor in jacobian.factors]
        totals = iter(jacobian.over_all_rows([sums for part in parts for sums in part or ()]))
        parts = [
            None if part is None else tuple(next(totals).to(kind) for _ in part) for part in parts
        ]
        if shift is not None:
            mean = (shift / shift.count_nonzero().clamp_min(1)).to(kind)
            pieces = torch.split(mean, [param.numel() for param in jacobian.like])
            parts = [
                (piece,) if part is None and bool(piece.any()) else part
                for part, piece in zip(parts, pieces, strict=True)
            ]
        return cls(parts, jacobian.like)

    @classmethod
    def kept(cls, state: Mapping[Tensor, Mapping[str, Any]], like: Sequence[Tensor]) -> Scaling:
        """D of an optimizer's last scaled step, of its state."""
        known = [state.get(param, {}) for param in like]
        parts = [tuple(values[name] for name in NAMES if name in values) for values in known]
        return cls([part or None for part in parts], like)

    def keep(self, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Put D where `kept` finds it."""
        for param, part in zip(self.like, self.parts, strict=True):
            state[param].update(zip(NAMES, part or (), strict=False))

    def maximum(self, earlier: Scaling) -> Scaling:
        """D not smaller than it was, where it was of the same form."""
        pairs = zip(self.parts, earlier.parts, strict=True)
        return Scaling([_larger(new, old) for new, old in pairs], self.like)

    @cached_property
    def roots(self) -> list[Part | None]:
        """D^{-1/2}, in the same form as D, with D no smaller than an influence that counts."""
        squares = self._squared_sizes()
        top = max(
            (_influence(p, s) for p, s in zip(self.parts, squares, strict=True) if p is not None),
            default=0.0,
        )
        if top == 0:
            return [None] * len(self.parts)
        least = torch.finfo(self.like[0].dtype).eps ** LEAST_INFLUENCE * top
        return [
            None if part is None else _root(part, least / square)
            for part, square in zip(self.parts, squares, strict=True)
        ]

    def _squared_sizes(self) -> list[Tensor]:
        """theta^2 for each entry of a diagonal, and its mean for a matrix; never zero."""
        values = [param.detach().reshape(-1) for param in self.like]
        total = sum(float(v @ v) for v in values) / sum(len(v) for v in values)
        least = NO_SIZE**2 * total or 1.0
        return [
            (v.square() if part is not None and len(part) == 1 else v @ v / len(v)).clamp_min(least)
            for v, part in zip(values, self.parts, strict=True)
        ]

    def limited(self, directions: Sequence[Tensor]) -> Scaling | None:
        """D enlarged for tensors that a step moves too far; None where it moves none.

        Args:
            directions: the steps proposed, P entries each.
        """
        sizes = [param.numel() for param in self.like]
        own = [_rms(param.detach()) for param in self.like]
        squares = sum(size * rms * rms for size, rms in zip(sizes, own, strict=True))
        whole = math.sqrt(squares / max(sum(sizes), 1))
        moves = [0.0] * len(sizes)
        for direction in directions:
            pieces = torch.split(direction, sizes)
            moves = [max(known, _rms(piece)) for known, piece in zip(moves, pieces, strict=True)]
        excess = [
            move / (FARTHEST * max(size, whole)) if max(size, whole) > 0 and root is not None else 0
            for move, size, root in zip(moves, own, self.roots, strict=True)
        ]
        if not max(excess) > 1 or not all(map(math.isfinite, excess)):
            return None
        parts = [
            part if root is None or by <= 1 else _lifted(root, LIFT * min(by, MOST) ** 2)
            for part, root, by in zip(self.parts, self.roots, excess, strict=True)
        ]
        return Scaling(parts, self.like)

    @cached_property
    def vector(self) -> Tensor:
        """D^{-1/2}, P entries; one for a parameter on which nothing depends."""
        pieces = [
            torch.ones_like(param).reshape(-1) if root is None else expanded(root)
            for root, param in zip(self.roots, self.like, strict=True)
        ]
        return torch.cat(pieces)

    def apply(self, jacobian: FactoredJacobian) -> FactoredJacobian:
        """J D^{-1/2}, the rows in the scaled variables."""
        factors = [
            factor if factor is None or root is None else scaled_factor(factor, root)
            for factor, root in zip(jacobian.factors, self.roots, strict=True)
        ]
        return jacobian.with_factors(factors)


def _part(factor: Factor) -> Part:
    if isinstance(factor, IndexedFactor):
        return factor.sums_of_squares()
    left, right = factor.left, factor.right
    if right is None:
        return (left.sum(1).square().sum(0),)
    if left.shape[1] == 1:
        left, right = left[:, 0].square(), right[:, 0].square()
        return left.T @ right.sum(1), right.T @ left.sum(1)
    rows = ((right @ right.mT @ left) * left).sum((0, 1))
    return rows, ((left @ left.mT @ right) * right).sum((0, 1))


def _larger(new: Part | None, old: Part | None) -> Part | None:
    if new is None or old is None:
        return old if new is None else new
    if [len(tensor) for tensor in new] != [len(tensor) for tensor in old]:
        return new
    return tuple(torch.maximum(a, b) for a, b in zip(new, old, strict=True))


def _top(part: Part) -> float:
    """The largest entry of D."""
    if len(part) == 1:
        return float(part[0].max())
    total = float(part[0].sum())
    # Divided first: the product of two sums of squares underflows where their ratio does not.
    return float(part[0].max()) / total * float(part[1].max()) if total > 0 else 0.0


def _influence(part: Part, squared_size: Tensor) -> float:
    """The largest D theta^2 of a parameter."""
    if len(part) == 1:
        return float((part[0] * squared_size).max())
    return _top(part) * float(squared_size)


def _root(part: Part, floor: Tensor) -> Part:
    """D^{-1/2} of one parameter, with D at least `floor`, entry by entry of a diagonal."""
    if len(part) == 1:
        return (torch.maximum(part[0], floor).rsqrt(),)
    rows, columns = part
    total, top = rows.sum(), _top(part)
    # By how much the largest entry has to grow; that of zeros, or of denormal numbers, by too much.
    lift = float(floor) / top if top > 0 else math.inf
    if lift == math.inf:
        return torch.ones_like(rows) * floor**-0.25, torch.ones_like(columns) * floor**-0.25
    found = tuple(
        (sums.clamp_min(FLOOR * sums.max()) / total.sqrt()).rsqrt() for sums in (rows, columns)
    )
    return found if lift <= 1 else tuple(root * lift**-0.25 for root in found)


def _lifted(root: Part, factor: float) -> Part:
    """The part that has D = factor / root^2."""
    if len(root) == 1:
        return (factor * root[0] ** -2,)
    rows, columns = (tensor**-2 for tensor in root)
    return factor * columns.sum() * rows, factor * rows.sum() * columns


def _rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor)) / math.sqrt(max(tensor.numel(), 1))


def expanded(root: Part) -> Tensor:
    """A diagonal as P entries: itself, or an outer product."""
    return root[0] if len(root) == 1 else torch.outer(*root).reshape(-1)


def scaled_factor(factor: Factor, root: Part) -> Factor:
    """Rows of one parameter times a diagonal."""
    if isinstance(factor, IndexedFactor):
        return factor.rescaled(*root)
    if factor.right is None:
        return Factor(factor.left * expanded(root), None)
    return replace(factor, left=factor.left * root[0], right=factor.right * root[1])
