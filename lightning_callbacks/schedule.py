"""After which optimizer steps a measurement is due, and how long it may take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from .allowance import SAFETY, Allowance, Costs
from .budget import Budget
from .config import Arguments
from .processes import Processes
from .uncollected import uncollected

T = TypeVar("T")

RESERVE = 0.9
"""The part of what is allowed that is planned with. Together with `SAFETY` it leaves room for a
last product that takes twice as long as the longest of late, where that is up to four training
steps: 18 + (2 - 1.5) 4 = 20."""

FIRST = 15.0
"""Training steps that the first measurement waits to be allowed, before anything is timed: what
the loss, its gradient with a graph and three products took on a ResNet (2.7 + 3 * 3.2), with the
`SAFETY` of the last one. These three are the fewest of which the Hessian's numbers are made; a
pause that ends before them evaluates the loss again in the next."""

GROWTH = 2.0
"""How much longer than the last a measurement may take where that had no time for full effort.
Doubling reaches full effort, or `PAUSES`, after few measurements, and spends no more on all those
before than on the one that does."""

PAUSES = 5.0
"""Longest pauses over which a measurement is spread at most, unless its cheapest form takes more.
By default that is 100 training steps' time in the course of 1,000 steps: chosen as the time over
which a training changes little, and a graph of it has points enough."""

OPENINGS = 6.0
"""How many times as long as evaluating the loss again a further pause is at least: chosen so that
no more than a sixth of the time goes into that."""


class Schedule:
    """Every so many steps, or after every epoch, as far as the budget allows.

    Args:
        given: the arguments of CurvatureMonitor.

    Attributes:
        budget: of the time spent measuring.
        measured_at: the step of the last measurement, or None.
        costs: what a measurement consists of, as last timed.
        spreads: whether a measurement may be continued in a later pause.
    """

    def __init__(self, given: Arguments) -> None:
        self.measured_at: int | None = None
        self._given = given
        self.begin()

    def begin(self) -> None:
        """Start the clock anew."""
        given = self._given
        share, pause = given.max_overhead, given.max_pause
        self.budget: Budget = Budget(
            _planned(share) if given.bounded else share, _planned(pause) if given.bounded else None
        )
        self.costs: Costs = Costs()
        self.spreads = True
        self._wanted: float | None = None

    def due_at_step(self, trainer: Any) -> bool:
        """Whether to measure at the optimizer step where the trainer stands."""
        if self._given.logging_interval == "epoch":
            return False
        return self._reached(trainer) and self._affordable(trainer)

    def due_after_epoch(self, trainer: Any) -> bool:
        """Whether to measure at the end of an epoch."""
        return self._given.logging_interval == "epoch" and self._affordable(trainer)

    def resumable(
        self, trainer: Any, allowance: Allowance, unit: float, *, awaited: bool = False
    ) -> bool:
        """Whether to go on with a measurement.

        Args:
            trainer: the trainer.
            allowance: the time that the measurement has.
            unit: seconds that its next unit is reckoned to take.
            awaited: whether there is no number of the Hessian yet in this run, which is then worth
                a pause that opens for little more than one unit.
        """
        opening = self.costs.estimate("opening")
        wanted = allowance.with_reserve(opening + unit + self.costs.estimate("closing"))
        if not awaited:
            wanted = max(wanted, allowance.rest(), OPENINGS * opening)
        return self.agreed(trainer, self._has(wanted))

    def allowance(self, trainer: Any, device: torch.device | None) -> Allowance:
        """The time that a measurement that begins now may take."""
        processes = Processes(trainer) if trainer.world_size > 1 else None
        if not self._given.bounded:
            return Allowance(processes=processes)
        now = self._now()
        seconds = None if now is None else max(self._effort(), now)
        seconds, step = self.agreed(trainer, (seconds, self.budget.step_seconds or 0.0))
        allowance = Allowance(seconds, self.costs, device, processes)
        allowance.step = step
        allowance.suspend()
        return allowance

    @contextmanager
    def pausing(self, allowance: Allowance) -> Iterator[bool]:
        """A pause of the training, for a measurement; whether there will never be a longer one."""
        with self.budget.measuring():
            if allowance.unlimited:
                yield True
                return
            longest, seconds = self.budget.longest_pause, self.budget.remaining
            full = seconds is not None and longest is not None and seconds >= longest
            closing = SAFETY * self.costs.estimate("closing")
            allowance.resume(None if seconds is None else max(0.0, seconds - closing))
            try:
                with uncollected():
                    yield allowance.shared(lambda: full)
            finally:
                allowance.suspend()

    def took(self, seconds: float, *, reduced: bool, lacking: float) -> None:
        """A measurement has taken so long.

        Args:
            seconds: that it took.
            reduced: whether it had no time for full effort.
            lacking: seconds that it takes more, at least, to have something of everything.
        """
        wanted = GROWTH * seconds if reduced else seconds
        self._wanted = max(wanted, SAFETY * (seconds + lacking))

    def _effort(self) -> float:
        """Seconds that the next measurement may take in all."""
        longest = self.budget.longest_pause
        if not self.spreads and longest is not None:
            return longest
        wanted = FIRST * (self.budget.step_seconds or 0.0) if self._wanted is None else self._wanted
        return min(wanted, math.inf if longest is None else PAUSES * longest)

    def _reached(self, trainer: Any) -> bool:
        """Whether a multiple of `every_n_steps` has just been reached, or nothing is measured."""
        n, step = self._given.every_n_steps, int(trainer.global_step)
        if self.measured_at is None:
            return True
        # Several batches that are accumulated end at the same step: it is measured once.
        return step % n == 0 and step > self.measured_at

    def _affordable(self, trainer: Any) -> bool:
        """Whether there is time to measure."""
        allowed = self.budget.allows()
        if self._given.bounded:
            enough = self.budget.step_seconds is not None
            allowed = enough and self._has(self._effort())
        return self.agreed(trainer, allowed)

    def agreed(self, trainer: Any, decided: T) -> T:
        """What the first process decides for all.

        Clocks differ, and a mean over processes that some of them do not join would never return.
        """
        return Processes(trainer).from_first(decided) if trainer.world_size > 1 else decided

    def _now(self) -> float | None:
        """Seconds that a pause may take now, None for no limit."""
        left, longest = self.budget.remaining, self.budget.longest_pause
        return left if left is None or longest is None else min(left, longest)

    def _has(self, seconds: float) -> bool:
        """Whether there is so much time now, or as much as there will ever be in one pause."""
        left, longest = self.budget.remaining, self.budget.longest_pause
        return left is None or left >= min(seconds, math.inf if longest is None else longest)


def _planned(limit: float | None) -> float | None:
    """The part of a limit that is planned with."""
    # What is no number is complained of in ``setup``, and not where the callback is made.
    return RESERVE * limit if isinstance(limit, (int, float)) else limit
