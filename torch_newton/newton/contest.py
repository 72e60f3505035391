r"""Which kind of step mini-batches are trained with: by exact systems, or along Kronecker factors.

Exact steps win where a network can fit every batch, and points of a differential equation are drawn
anew; Kronecker factors where samples are many or noisy, and a step that fits its batch loses what
it gains on the next one. So a step is judged by the next batch: its gain is

.. math:: \log\frac{L_{t+1}(\theta_t)}{L_{t+1}(\theta_{t+1})},

with both losses of one batch, so that most of the noise cancels, over what the step cost. The kind
that gains more is kept, and the other tried again, after twice as many steps each time. Costs are
counted and not timed, so that a run repeats exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

KRONECKER, EXACT = "kronecker", "exact"

TRIAL, SHORTEST = 12, 3
"""Steps that a kind is tried for. Along Kronecker factors lambda begins at s and is halved at each
of the first ten (`MiniBatch`), so that earlier ones say little. Exact steps are tried for fewer
where they are dear, but for as many as they take to find their lambda again."""

JUDGED = 5
"""Steps at the end of a phase along Kronecker factors whose gain is measured, which takes a forward
evaluation each. Exact steps are dear beside it, and their lambda follows it: all are measured."""

NEWEST = 0.15
"""Weight of the newest gain in the mean of steps in use, as in `bandit`; of trials all gains count
alike."""

PATIENCE = 20
"""Steps of the kind in use before the other is tried again; doubled at each trial, whatever came of
it, and longer still after a clear one (`CLEARLY`): where noise is all that the gains show, it alone
would decide, again and again."""

STILL, WANDERING = 5e-3, 0.05
"""Gain a step, in nats, below which steps along Kronecker factors do nothing that exact ones in use
should make place for, and loss a step up to which those only wander about a mean. For points of a
heat equation that are drawn anew it was up to 0.003, and 0.02, where exact steps came to a
hundredth of the loss; where they fit no more than their own batch they lost 0.1 to 0.5."""

CLEAR, CLEARLY = 1 / 4, 4
"""Share of the gain of exact steps, if that is larger than WANDERING, below which steps along
Kronecker factors are clearly worse, and how much longer exact ones then stay in use: a trial of
the others is steps without progress there."""

SHARE, HORIZON = 0.1, 2500.0
"""All trials of exact steps may cost this share of what was spent and of HORIZON gradients to come,
as in `bandit`: so much is lost at most where they are out of the question. The first steps take
more attempts than later ones, 51 gradients and 14 for a Poisson equation, and are to leave enough
for these. Where even the shortest trial costs more, steps along Kronecker factors go on until it
does not."""

STEP_COST = 3.2
"""A step along Kronecker factors in gradients, as processor time: 3.2 on a ResNet of 152,000
parameters and on a language model of 0.8 million."""


@dataclass(frozen=True)
class Contest:
    """What the choice remembers.

    Attributes:
        kind: of step that is in use.
        steps: of it, since it came into use.
        length: steps after which this ends.
        trial: whether it is on trial.
        trials: how often the other kind was tried, after the first time.
        measured: gains that the rate of the present phase is a mean of.
        rates: of each kind, nats of loss for a gradient.
        cost: of an exact step, in gradients.
        spent: cost so far.
        tried: what exact steps on trial have cost of that.
    """

    kind: str = EXACT
    steps: int = 0
    length: int = TRIAL
    trial: bool = True
    trials: int = 0
    measured: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    cost: float = STEP_COST
    spent: float = 0.0
    tried: float = 0.0

    @property
    def due(self) -> bool:
        """Whether the gain of the last step is to be measured."""
        if self.steps == 0:
            return False
        return self.kind == EXACT or self.length - self.steps < JUDGED

    def gained(self, gain: float) -> Contest:
        """With the gain of the last step, in nats."""
        number = self.measured + 1
        rate = gain / (self.cost if self.kind == EXACT else STEP_COST)
        newest = 1 / number if self.trial else max(NEWEST, 1 / number)
        mean = (1 - newest) * self.rates.get(self.kind, 0.0) + newest * rate
        return replace(self, rates={**self.rates, self.kind: mean}, measured=number)

    def after(self, cost: float) -> Contest:
        """After one more step, of a cost in gradients; in another phase where this one ends."""
        known = replace(self, steps=self.steps + 1, spent=self.spent + cost)
        if known.kind == EXACT:
            known = replace(known, cost=cost)
            if known.trial:
                known = replace(known, tried=known.tried + cost)
                most = min(known.steps + known._affordable, TRIAL)
                known = replace(known, length=most if most >= SHORTEST else known.steps)
            elif known._lost:
                return known._phase(KRONECKER, trial=True)
        return known if known.steps < known.length else known._ended()

    @property
    def opening(self) -> bool:
        """Whether no step was counted yet."""
        return self.kind == EXACT and self.trial and self.steps == 0 and not self.rates

    def began(self, cost: float) -> Contest:
        """After an exact step that was taken before batches were known to vary."""
        return replace(self, cost=cost, spent=cost, tried=cost) if self.opening else self

    @property
    def too_dear(self) -> bool:
        """Whether exact steps cost more than even their shortest trial may."""
        return self._affordable < SHORTEST

    def without_exact(self) -> Contest:
        """Begun with steps along Kronecker factors."""
        return self._phase(KRONECKER, trial=True)

    @property
    def _affordable(self) -> int:
        """Steps that exact steps may be tried for, from now on."""
        return max(0, int((SHARE * (self.spent + HORIZON) - self.tried) / self.cost))

    @property
    def _lost(self) -> bool:
        """Whether exact steps in use gain less by now than others did.

        That is said after a quarter of the phase, since the gain of a single step is mostly noise
        where a batch has few rows.
        """
        rate = self.rates.get(EXACT, 0.0)
        return 4 * self.measured >= self.length and rate < self.rates.get(KRONECKER, 0.0)

    def _ended(self) -> Contest:
        other = EXACT if self.kind == KRONECKER else KRONECKER
        if not self.trial or other not in self.rates:
            if other == EXACT and self.too_dear:
                return replace(self, length=self.length + JUDGED)
            return self._phase(other, trial=True)
        exact, along = self.rates.get(EXACT, 0.0), self.rates.get(KRONECKER, 0.0)
        wins = exact > max(along, 0.0)
        if self.kind == KRONECKER:  # exact steps are in use
            still = STEP_COST * along < STILL and self.cost * exact > -WANDERING
            wins = exact >= along or still
        decided = self._phase(EXACT if wins else KRONECKER, trial=False)
        if self.cost * exact > WANDERING and along < CLEAR * exact:
            decided = replace(decided, length=CLEARLY * decided.length)
        return replace(decided, trials=self.trials + 1)

    def _phase(self, kind: str, *, trial: bool) -> Contest:
        length = TRIAL if trial else PATIENCE * 2**self.trials
        return replace(self, kind=kind, steps=0, length=length, trial=trial, measured=0)

    def numbers(self) -> dict[str, Any]:
        """As numbers in dictionaries, the form in which a checkpoint holds it."""
        return {**asdict(self), "kind": {self.kind: True}}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Contest:
        """The inverse of `numbers`."""
        (kind,) = numbers["kind"]
        return cls(**{**numbers, "kind": kind})
