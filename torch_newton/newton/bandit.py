r"""Which candidate system a step solves, chosen by what the last steps gained.

The candidates are {Gauss-Newton, exact Hessian} x {lambda I, lambda D} by default: none is good
everywhere, and one of them nearly always is. It is a multi-armed bandit problem. Each system has
a rate, :math:`\log(L_0/L_1)` over the cost of the step, averaged over its last steps. The best one
is selected; now and then another is tried for a few steps, when what that costs is small beside
what has been spent and what is still to be spent at the present rate. Costs are counted in
evaluations of the closure and not timed, so that a run repeats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..step import CandidateSystem, Step, as_key, from_key

NEWEST = 0.3
"""Weight of the newest step in a system's rate: a memory of about three steps, over which the
loss of a network falls at one rate; a single step is noise, ten are another phase of training."""

TRIAL = 2
"""Steps that a system is tried for: the first finds its lambda."""

SHARE = 0.1
"""Cost of all trials, relative to all cost so far and to come: the most that a user loses who
would have known the best system."""

HORIZON = 1000.0
"""Cost to come is reckoned as that of reducing the loss by a factor e, but at most this: some 100
steps, so that a run that has come to rest does not go on trying."""

PATIENCE = 10
"""Steps between two trials of a system; doubled at each in vain, so that their number grows with
the logarithm of the number of steps."""


@dataclass(frozen=True)
class Selections:
    """What is remembered of one system.

    Attributes:
        rate: nats of loss gained per closure evaluation, a running mean.
        cost: closure evaluations of its last step, products and the Jacobian included.
        last: the step at which it was last selected.
        trials: how often in a row it was tried and did not become the best.
    """

    rate: float
    cost: float
    last: int
    trials: int


Candidates = Mapping[CandidateSystem, float]
"""Systems in the order in which they are tried, with the cost expected of a first step."""


@dataclass(frozen=True)
class History:
    """What the choice remembers.

    Attributes:
        selections: of each system that was selected, by its name.
        step: steps so far.
        spent: their cost.
        tried: the part of it that went to trials.
        current: the name of the system in use.
        left: steps for which it stays in use.
    """

    selections: dict[str, Selections] = field(default_factory=dict)
    step: int = 0
    spent: float = 0.0
    tried: float = 0.0
    current: str | None = None
    left: int = 0

    def best(self, among: Candidates) -> CandidateSystem | None:
        """The system of the highest rate."""
        known = [system for system in among if system.name in self.selections]
        return max(known, key=lambda system: self.selections[system.name].rate, default=None)

    def select(self, among: Candidates, to_come: bool = True) -> CandidateSystem:
        """The system for the next step.

        Args:
            among: the candidates.
            to_come: whether a trial may be paid for by what is still to be spent, or must wait
                until it is small beside what has been.
        """
        if self.left > 0:
            for system in among:
                if system.name == self.current:
                    return system
        best = self.best(among)
        if best is None:
            return next(iter(among))
        return self._trial(among, best, to_come) or best

    def after(self, step: Step, cost: float, among: Candidates) -> History:
        """The history after a step of a given cost, with the systems it was selected among."""
        system = step.system
        known = self.selections.get(system.name)
        best = self.best(among)
        opening = system.name != self.current or self.left == 0
        trial = opening and best is not None and system != best
        left = TRIAL - 1 if trial or best is None else max(0, self.left - 1)
        trials = 0 if known is None else known.trials + trial
        rate = _gain(step) / cost
        if known is not None:
            rate = (1 - NEWEST) * known.rate + NEWEST * rate
        selections = {**self.selections, system.name: Selections(rate, cost, self.step + 1, trials)}
        newest = selections[system.name]
        if left == 0 and max(selections.values(), key=lambda found: found.rate) is newest:
            selections[system.name] = replace(newest, trials=0)
        on_trial = trial or (not opening and best is not None and system != best)
        return History(
            selections,
            self.step + 1,
            self.spent + cost,
            self.tried + (cost if on_trial else 0.0),
            system.name,
            left,
        )

    def _trial(
        self, among: Candidates, best: CandidateSystem, to_come: bool
    ) -> CandidateSystem | None:
        """Another system whose turn it is to be tried."""
        rate = self.selections[best.name].rate
        coming = (min(1 / rate, HORIZON) if rate > 0 else HORIZON) if to_come else 0.0
        others = [system for system in among if system != best]
        for system in sorted(others, key=self._last):
            known = self.selections.get(system.name)
            if known is None and not system.exact:  # as cheap as what is in use
                return system
            wait = 0 if known is None else PATIENCE * 2**known.trials
            cost = TRIAL * (among[system] if known is None else known.cost)
            if self.step - self._last(system) >= wait and (
                self.tried + cost <= SHARE * (self.spent + coming)
            ):
                return system
        return None

    def _last(self, system: CandidateSystem) -> int:
        known = self.selections.get(system.name)
        return -1 if known is None else known.last

    def numbers(self) -> dict[str, Any]:
        """The history as numbers in dictionaries, the form in which a checkpoint holds it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["selections"] = {name: dict(vars(s)) for name, s in self.selections.items()}
        values["current"] = {} if self.current is None else as_key(self.current)
        return values

    @classmethod
    def from_numbers(cls, numbers: dict[str, Any]) -> History:
        """The inverse of `numbers`."""
        known = {name: Selections(**values) for name, values in numbers["selections"].items()}
        current = from_key(numbers["current"]) if numbers["current"] else None
        return cls(**{**numbers, "selections": known, "current": current})


def _gain(step: Step) -> float:
    """The logarithm of loss before over loss after; a relative change where one is not positive."""
    if not step.accepted:
        return 0.0
    if step.loss > 0 and step.loss_after > 0:
        return math.log(step.loss / step.loss_after)
    largest = max(abs(step.loss), abs(step.loss_after))
    return (step.loss - step.loss_after) / max(largest, 1e-300)  # zero minus zero over no zero
