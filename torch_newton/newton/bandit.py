r"""Which curvature and which damping a step uses, chosen by what the last steps gained.

Four arms, {Gauss-Newton, exact Hessian} x {lambda I, lambda D}: none is good everywhere, and one of
them nearly always is. Each has a rate, :math:`\log(L_0/L_1)` over the cost of the step, averaged
over its last steps. The best one is played; now and then another is tried for a few steps, when
what that costs is small beside what has been spent and what is still to be spent at the present
rate. Costs are counted in evaluations of the closure and not timed, so that a run repeats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..step import Arm, Path, Step

NEWEST = 0.3
"""Weight of the newest step in an arm's rate."""

TRIAL = 2
"""Steps that an arm is tried for: the first finds its lambda."""

SHARE = 0.1
"""Cost of all trials, relative to all cost so far and to come."""

HORIZON = 1000.0
"""Cost to come is reckoned as that of reducing the loss by a factor e, but at most this."""

PATIENCE = 10
"""Steps between two trials of an arm; doubled at each in vain."""


@dataclass(frozen=True)
class Play:
    """What is remembered of one arm.

    Attributes:
        rate: nats of loss gained per closure evaluation, a running mean.
        cost: closure evaluations of its last step, products and rows included.
        last: the step at which it was last played.
        trials: how often in a row it was tried and did not become the best.
    """

    rate: float
    cost: float
    last: int
    trials: int


EXPECTED_COST = {
    Arm.GAUSS_NEWTON: 5.0,
    Arm.SCALED_GAUSS_NEWTON: 5.0,
    Arm.HESSIAN: 14.0,
    Arm.SCALED_HESSIAN: 14.0,
}
"""Cost of a step of an arm that has not been played."""


@dataclass(frozen=True)
class History:
    """What the choice remembers; numbers alone, as `numbers`.

    Attributes:
        plays: of each arm that was played.
        step: steps so far.
        spent: their cost.
        tried: the part of it that went to trials.
        current: the arm in play.
        left: steps for which it stays in play.
    """

    plays: dict[Arm, Play] = field(default_factory=dict)
    step: int = 0
    spent: float = 0.0
    tried: float = 0.0
    current: Arm | None = None
    left: int = 0

    def best(self, among: Collection[Arm]) -> Arm | None:
        """The arm of the highest rate."""
        known = [arm for arm in among if arm in self.plays]
        return max(known, key=lambda arm: self.plays[arm].rate, default=None)

    def choose(self, among: Collection[Arm]) -> Arm:
        """The arm for the next step."""
        if self.left > 0 and self.current is not None and self.current in among:
            return self.current
        best = self.best(among)
        if best is None:
            return next(arm for arm in Arm if arm in among)
        rate = self.plays[best].rate
        to_come = min(1 / rate, HORIZON) if rate > 0 else HORIZON
        others = [arm for arm in Arm if arm in among and arm is not best]
        for arm in sorted(others, key=self._last):
            play = self.plays.get(arm)
            if play is None and not arm.exact:  # as cheap as what is in play
                return arm
            wait = 0 if play is None else PATIENCE * 2**play.trials
            cost = TRIAL * (EXPECTED_COST[arm] if play is None else play.cost)
            if self.step - self._last(arm) >= wait and (
                self.tried + cost <= SHARE * (self.spent + to_come)
            ):
                return arm
        return best

    def after(self, step: Step, among: Collection[Arm]) -> History:
        """The history after a step, with the arms that its arm was chosen among."""
        arm = step.arm
        known, cost = self.plays.get(arm), _cost(step)
        best = self.best(among)
        opening = arm is not self.current or self.left == 0
        trial = opening and best is not None and arm is not best
        left = TRIAL - 1 if trial or best is None else max(0, self.left - 1)
        trials = 0 if known is None else known.trials + trial
        rate = _gain(step) / cost
        if known is not None:
            rate = (1 - NEWEST) * known.rate + NEWEST * rate
        plays = {**self.plays, arm: Play(rate, cost, self.step + 1, trials)}
        if left == 0 and max(plays.values(), key=lambda play: play.rate) is plays[arm]:
            plays[arm] = replace(plays[arm], trials=0)
        on_trial = trial or (not opening and best is not None and arm is not best)
        return History(
            plays,
            self.step + 1,
            self.spent + cost,
            self.tried + (cost if on_trial else 0.0),
            arm,
            left,
        )

    def _last(self, arm: Arm) -> int:
        play = self.plays.get(arm)
        return -1 if play is None else play.last

    def numbers(self) -> dict[str, Any]:
        """The history as numbers alone, the form in which a checkpoint can hold it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["plays"] = {
            arm.name: {f.name: getattr(play, f.name) for f in fields(play)}
            for arm, play in self.plays.items()
        }
        values["current"] = -1 if self.current is None else list(Arm).index(self.current)
        return values

    @classmethod
    def from_numbers(cls, numbers: dict[str, Any]) -> History:
        """The inverse of `numbers`."""
        plays = {Arm[name]: Play(**play) for name, play in numbers["plays"].items()}
        current = None if numbers["current"] < 0 else list(Arm)[int(numbers["current"])]
        return cls(**{**numbers, "plays": plays, "current": current})


def _cost(step: Step) -> float:
    """Closure evaluations: those made, 2 for gradient and rows, and 2 for each product.

    Products with the rows themselves are not counted.
    """
    by_rows = step.path is Path.FUNCTION_SPACE and not step.arm.exact
    return step.closure_calls + 2.0 + (0.0 if by_rows else 2.0 * step.products)


def _gain(step: Step) -> float:
    """The logarithm of loss before over loss after; for losses that are not positive, the like."""
    if not step.accepted:
        return 0.0
    if step.loss > 0 and step.loss_after > 0:
        return math.log(step.loss / step.loss_after)
    return (step.loss - step.loss_after) / max(abs(step.loss), abs(step.loss_after), 1e-300)
