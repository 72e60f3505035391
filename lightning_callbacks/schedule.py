"""After which optimizer steps a measurement is due, and how long it may take."""

from __future__ import annotations

import math
from typing import Any

import torch

from .allowance import RESERVE, Allowance, Costs
from .budget import Budget
from .config import Arguments

FIRST = 10.0
"""Training steps that the first measurement waits to be allowed, before anything is timed. An
evaluation of gradient and graph takes two to three, but seven the first time, and the products of
the cheapest spectra about as many again."""

GROWTH = 2.0
"""How much longer than the last a measurement may take where that had no time for full effort.
Doubling reaches full effort, or the longest pause, after few measurements, and spends no more on
all those before than on the one that does."""


class Schedule:
    """Every so many steps, or after every epoch, as far as the budget allows.

    Args:
        given: the arguments of CurvatureMonitor.

    Attributes:
        budget: of the time spent measuring.
        measured_at: the step of the last measurement, or None.
        costs: what a measurement consists of, as last timed.
    """

    def __init__(self, given: Arguments) -> None:
        self.measured_at: int | None = None
        self._given = given
        self.begin()

    def begin(self) -> None:
        """Start the clock anew."""
        given = self._given
        self.budget = Budget(given.max_overhead, given.max_pause if given.bounded else None)
        self.costs = Costs()
        self._wanted: float | None = None

    def due_at_step(self, trainer: Any) -> bool:
        """Whether to measure at the optimizer step where the trainer stands."""
        if self._given.logging_interval == "epoch":
            return False
        return self._reached(trainer) and self._affordable(trainer)

    def due_after_epoch(self, trainer: Any) -> bool:
        """Whether to measure at the end of an epoch."""
        return self._given.logging_interval == "epoch" and self._affordable(trainer)

    def allowance(self, trainer: Any, device: torch.device | None) -> Allowance:
        """The time that a measurement now may take."""
        if not self._given.bounded:
            return Allowance()
        seconds, longest = self.budget.remaining, self.budget.longest_pause
        at_most = seconds is not None and longest is not None and seconds >= longest
        agree = None
        if trainer.world_size > 1:
            seconds = trainer.strategy.broadcast(seconds)
            agree = trainer.strategy.broadcast
        return Allowance(seconds, self.costs, device, agree, longest=at_most)

    def took(self, seconds: float, *, reduced: bool, lacking: float) -> None:
        """A measurement has taken so long.

        Args:
            seconds: that it took.
            reduced: whether it had no time for full effort.
            lacking: seconds that it takes more, at least, to have something of everything.
        """
        wanted = GROWTH * seconds if reduced else seconds
        self._wanted = max(wanted, (seconds + lacking) / RESERVE)

    def _reached(self, trainer: Any) -> bool:
        """Whether a multiple of `every_n_steps` has just been reached, or nothing is measured."""
        n, step = self._given.every_n_steps, int(trainer.global_step)
        if self.measured_at is None:
            return True
        # Several batches that are accumulated end at the same step: it is measured once.
        return step % n == 0 and step > self.measured_at

    def _affordable(self, trainer: Any) -> bool:
        """Whether there is time to measure.

        The first process decides for all: clocks differ, and a mean over processes that some of
        them do not join would never return.
        """
        allowed = self._enough() if self._given.bounded else self.budget.allows()
        return bool(trainer.strategy.broadcast(allowed)) if trainer.world_size > 1 else allowed

    def _enough(self) -> bool:
        """Whether the time that is left suffices for the effort wanted now."""
        step, left = self.budget.step_seconds, self.budget.remaining
        if step is None:
            return False
        wanted = FIRST * step if self._wanted is None else self._wanted
        longest = self.budget.longest_pause
        return left is None or left >= min(wanted, math.inf if longest is None else longest)
