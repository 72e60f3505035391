"""After which optimizer steps a measurement is due."""

from __future__ import annotations

from typing import Any

from .budget import Budget
from .config import Arguments


class Schedule:
    """Every so many steps, or after every epoch, as far as the budget allows.

    Args:
        given: the arguments of CurvatureMonitor.

    Attributes:
        budget: of the time spent measuring.
        measured_at: the step of the last measurement, or None.
    """

    def __init__(self, given: Arguments) -> None:
        self.budget = Budget(given.max_overhead)
        self.measured_at: int | None = None
        self._given = given

    def begin(self) -> None:
        """Start the clock anew."""
        self.budget = Budget(self._given.max_overhead)

    def due_at_step(self, trainer: Any) -> bool:
        """Whether to measure at the optimizer step where the trainer stands."""
        if self._given.logging_interval == "epoch":
            return False
        return self._reached(trainer) and self._affordable(trainer)

    def due_after_epoch(self, trainer: Any) -> bool:
        """Whether to measure at the end of an epoch."""
        return self._given.logging_interval == "epoch" and self._affordable(trainer)

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
        allowed = self.budget.allows()
        return bool(trainer.strategy.broadcast(allowed)) if trainer.world_size > 1 else allowed
