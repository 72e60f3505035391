"""Whether each step sees another batch, and what it says of the last one."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..closure.evaluator import Evaluator
from ..closure.start import Start
from ..linalg.flat import flatten, unflatten
from .contest import KRONECKER, Contest

STEP = "kronecker_step"
"""Under which the state of a parameter holds its part of the last step."""

ENOUGH = 2
"""Steps in a row that begin with another batch before steps are chosen for that: two epochs of one
batch, or a scheduler that changes the loss, make one."""

TOLERANCE = 1e-4
"""Relative difference of losses at one point up to which they are of one batch: kernels that add in
a varying order repeat a loss to less, and other batches differ in the first digits."""


@dataclass(frozen=True)
class Batches:
    """What is remembered of the batches.

    Attributes:
        loss: of the closure where the last step ended, on its own batch; NaN where not known.
        place: the length of the parameters there, by which they are known again.
        changes: steps in a row that began with another loss than that.
        factored: whether the last loss had Kronecker factors.
        contest: between the two kinds of step.
    """

    loss: float = math.nan
    place: float = math.nan
    changes: int = 0
    factored: bool = False
    contest: Contest = field(default_factory=Contest)

    @property
    def vary(self) -> bool:
        """Whether each step sees another batch."""
        return self.changes >= ENOUGH

    @property
    def along_factors(self) -> bool:
        """Whether steps are taken along Kronecker factors for that."""
        return self.vary and self.factored and self.contest.kind == KRONECKER

    def seen(self, loss: float, place: float) -> Batches:
        """With the loss that a step begins with."""
        if math.isnan(self.loss) or place != self.place:
            return self
        limit = TOLERANCE * max(abs(loss), abs(self.loss))
        return replace(self, changes=self.changes + 1 if abs(loss - self.loss) > limit else 0)

    @property
    def begun(self) -> Batches:
        """At the first other batch: one change is enough where exact steps are too dear to try."""
        known = self.factored and self.contest.opening and self.contest.spent > 0
        if self.vary or not (self.changes and known and self.contest.too_dear):
            return self
        return replace(self, changes=ENOUGH, contest=self.contest.without_exact())

    def numbers(self) -> dict[str, Any]:
        """As numbers in dictionaries, the form in which a checkpoint holds it.

        What is not known is left out: NaN does not equal itself, and states are compared.
        """
        known = dict(vars(self))
        for name in ("loss", "place"):
            if math.isnan(known[name]):
                del known[name]
        return {**known, "contest": self.contest.numbers()}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Batches:
        """The inverse of `numbers`."""
        return cls(**{**numbers, "contest": Contest.from_numbers(numbers["contest"])})


def place_of(params: Sequence[Tensor]) -> float:
    """The sum of the lengths of all parameters."""
    lengths = torch.stack([param.detach().norm() for param in params])
    return math.fsum(lengths.tolist())  # a device is waited for once, not for each parameter


def reduction(evaluator: Evaluator, begin: Start, last: Tensor) -> tuple[float, float]:
    """By how much the last step lowered the loss of the present batch, and in nats.

    It takes a forward evaluation, where the last step began. Both are NaN where the loss is not
    defined there; without a logarithm the change relative to the larger loss takes its place.
    """
    with evaluator.testing():
        before, _ = evaluator.loss_at(-last)
    after, decay = begin.loss, begin.surrogate.decay
    if decay is not None:
        before += decay.loss(-last)
    if before > 0 and after > 0:
        return before - after, math.log(before / after)
    return before - after, (before - after) / max(abs(before), abs(after), 1e-300)


def last_step(state: Mapping[Tensor, dict[str, Any]], params: Sequence[Tensor]) -> Tensor | None:
    """The move of the last step; None where it made none, or moved other parameters."""
    parts = [state.get(param, {}).get(STEP) for param in params]
    known = [part for part in parts if part is not None]
    return flatten(known) if len(known) == len(parts) else None


def keep_step(
    state: MutableMapping[Tensor, dict[str, Any]], params: Sequence[Tensor], move: Tensor | None
) -> None:
    """Leave the move of a step in the state of the parameters."""
    for param in params:
        if param in state:
            state[param].pop(STEP, None)
    if move is not None:
        for param, part in zip(params, unflatten(move, params), strict=True):
            state[param][STEP] = part.clone()
