"""How CurvatureMonitor measures: at a point of the training, in the time that it is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torch_newton import Observation

from .allowance import RESERVE, Allowance
from .config import Arguments
from .displacement import Displacement
from .failures import Failures
from .isolation import SEED, undisturbed
from .logs import mean_over_processes
from .measurement import Measurement, measure
from .newton import point_of_step
from .probe import Probe
from .quantities.base import Quantity
from .quantities.table import QUANTITIES
from .schedule import Schedule
from .trainer import initialized, low_precision, trained
from .warn_once import WarnOnce

NEWTON = {key for key, _ in QUANTITIES["newton"].documentation}
"""Numbers that cost nothing."""


class Engine:
    """Measures the quantities asked for, and hands over what was found.

    Args:
        given: the arguments of CurvatureMonitor.
        warn: called with what the user should know.
        failures: notes what is raised in a measurement.
        log: called with the trainer and what was measured.

    Attributes:
        probe: the batch on which the loss is evaluated.
        schedule: when to measure.
    """

    def __init__(
        self,
        given: Arguments,
        warn: WarnOnce,
        failures: Failures,
        log: Callable[[Any, Measurement], None],
    ) -> None:
        self.probe = Probe(given, warn)
        self.schedule = Schedule(given)
        self._given, self._warn, self._failures, self._log = given, warn, failures, log
        self._lacking: set[str] = set()
        self._not_before: dict[str, int] = {}

    def measure(self, trainer: Any, module: Any) -> None:
        """Measure on the probe, beside the training."""
        if not initialized(module):
            return  # a lazy module gets its parameters from the first batch
        settings = self._given.settings(low_precision(trainer))
        quantities = self._quantities(int(trainer.global_step))
        if not any(q.needs for q in quantities) and self._not_before:
            return
        with self._clocked(trainer, module.device) as allowance:
            found = Measurement()
            with (
                self._failures.noted("restoring the module"),
                undisturbed(trainer, module, SEED),
                torch.inference_mode(False),
                torch.enable_grad(),
            ):
                point, skipped = None, False
                with self._failures.noted("evaluating the loss"):
                    point = self.probe.point(trainer, module, settings, allowance)
                    skipped = point is None
                if not skipped:
                    found = measure(point, quantities, self._failures, self._lacking)
            self._note_lacking(allowance, int(trainer.global_step))
            numbers = mean_over_processes(trainer, found.numbers) if found.numbers else {}
            if numbers.keys() - NEWTON or not allowance.lacking:
                self._log(trainer, Measurement(numbers, found.spectra))

    def observe(self, trainer: Any, seen: Observation) -> None:
        """Measure a step of RegNewton, from what the step knows."""
        displacement = self._moved(trainer, seen.params)
        if not self.schedule.due_at_step(trainer):
            return
        settings = self._given.settings(low_precision(trainer))
        quantities = self._quantities(int(trainer.global_step))
        with self._clocked(trainer, seen.params[0].device) as allowance, torch.enable_grad():
            point = None
            with self._failures.noted("reading RegNewton's step"):
                damping, warn = self._given.damping, self._warn
                point = point_of_step(seen, damping, settings, warn, allowance, displacement)
            found = measure(point, quantities, self._failures, self._lacking)
            self._note_lacking(allowance, int(trainer.global_step))
            if found.numbers.keys() - NEWTON or not allowance.lacking:
                self._log(trainer, found)

    def before_step(self, trainer: Any, optimizer: Any) -> None:
        """An optimizer is about to take its step: keep its parameters where a quantity asks."""
        if self._given.asks_for_step:
            budget, failures = self.schedule.budget, self._failures
            with budget.spending(), failures.noted("keeping the parameters before a step"):
                params = trained([optimizer])
                self.probe.previous.keep(optimizer, params, int(trainer.global_step))

    def _moved(self, trainer: Any, params: Sequence[Tensor]) -> Displacement | None:
        """The last step of the optimizer that is observed, whose next begins here."""
        if not self._given.asks_for_step:
            return None
        previous, optimizers = self.probe.previous, list(trainer.optimizers)
        displacement = previous.displacement(optimizers, params)
        previous.keep(optimizers[0], params, int(trainer.global_step))
        return displacement

    @contextmanager
    def _clocked(self, trainer: Any, device: torch.device) -> Iterator[Allowance]:
        """A block that is a measurement, and takes the time that it is allowed."""
        with self.schedule.budget.measuring():
            allowance = self.schedule.allowance(trainer, device)
            began = allowance.now()
            yield allowance
        seconds, lacking = allowance.now() - began, sum(allowance.lacking.values())
        self.schedule.took(seconds, reduced=allowance.reduced, lacking=lacking)

    def _quantities(self, step: int) -> list[Quantity]:
        """Those to measure at a step."""
        return [q for q in self._given.selected() if self._not_before.get(q.name, 0) <= step]

    def _note_lacking(self, allowance: Allowance, step: int) -> None:
        """Leave out a quantity of which the cheapest form takes longer than the longest pause.

        It is tried again when training has gone on for twice as long: what was timed may have
        been a moment at which the machine was busy, and the first products are the slowest.
        """
        self._lacking = set(allowance.lacking)
        longest = self.schedule.budget.longest_pause
        if longest is None:
            return
        evaluation = self.schedule.costs.of("gradient") or 0.0
        for name, seconds in allowance.lacking.items():
            if RESERVE * longest >= evaluation + seconds:
                continue
            if name in self._not_before:
                steps = (evaluation + seconds) / (self.schedule.budget.step_seconds or math.inf)
                self._warn(
                    f"{name!r} is not measured for the time being: it would take as long as "
                    f"{steps:.0f} training steps, and max_pause={self._given.max_pause} allows "
                    "fewer. Give a larger max_pause, or a smaller batch as probe=",
                    f"too dear {name}",
                )
            self._not_before[name] = 2 * step
