"""How CurvatureMonitor measures: at a point of the training, in the time that it is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torch_newton import Observation

from .allowance import SAFETY, Allowance, OutOfTimeError
from .config import Arguments
from .displacement import Displacement
from .failures import Failures
from .in_progress import InProgress
from .isolation import SEED, undisturbed
from .logs import mean_over_processes
from .manual import optimizers_apart
from .measurement import Measurement, measure
from .newton import point_of_step
from .outcomes import MovedError
from .probe import Probe
from .products_bar import bar
from .quantities.base import Need, Quantity
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
        self.probe: Probe = Probe(given, warn)
        self.schedule: Schedule = Schedule(given)
        self._given, self._warn, self._failures, self._log = given, warn, failures, log
        self._lacking: set[str] = set()
        self._not_before: dict[str, int] = {}
        self._current: InProgress | None = None
        self._turn = 0
        self._awaited = True

    def begin(self) -> None:
        """Training begins."""
        self.schedule.begin()
        self._current = None
        self._awaited = True

    def at_step(self, trainer: Any, module: Any) -> None:
        """After an optimizer step: go on with a measurement, or begin one where it is due."""
        current = self._current
        if current is None:
            if self.schedule.due_at_step(trainer):
                self.measure(trainer, module)
        elif self.schedule.resumable(
            trainer, current.allowance, current.course.needs, awaited=self._awaited
        ):
            self._pause(trainer, module, current)

    def after_epoch(self, trainer: Any, module: Any) -> None:
        """At the end of an epoch: begin a measurement, where it is due."""
        if self._current is None and self.schedule.due_after_epoch(trainer):
            self.measure(trainer, module)

    def measure(self, trainer: Any, module: Any) -> None:
        """Begin a measurement on the probe, beside the training."""
        if not initialized(module):
            return  # a lazy module gets its parameters from the first batch
        step = int(trainer.global_step)
        quantities = self._quantities(step)
        if not any(q.needs for q in quantities) and self._not_before:
            return
        apart = optimizers_apart(trainer, module, self._given.loss is not None)
        if apart and self._given.bounded:  # they take turns, each with all the time there is
            self._turn += 1
            indices = [apart[(self._turn - 1) % len(apart)]]
        else:
            indices = apart or [-1]
        for index in indices:
            allowance = self.schedule.allowance(trainer, module.device)
            found, prefix = Measurement(step=step), f"{index}/" if len(apart) > 1 else ""
            current = InProgress(quantities, allowance, found, index, prefix)
            self._pause(trainer, module, current)

    def observe(self, trainer: Any, seen: Observation) -> None:
        """Measure a step of RegNewton, from what the step knows, in one pause."""
        displacement = self._moved(trainer, seen.params)
        if not self.schedule.due_at_step(trainer):
            return
        step = int(trainer.global_step)
        settings = self._given.settings(low_precision(trainer))
        allowance = self.schedule.allowance(trainer, seen.params[0].device)
        current = InProgress(self._quantities(step), allowance, Measurement(step=step))
        with self.schedule.pausing(allowance), torch.enable_grad():
            point = None
            with self._failures.noted("reading RegNewton's step"):
                damping, warn = self._given.damping, self._warn
                point = point_of_step(seen, damping, settings, warn, allowance, displacement)
            with bar(allowance.unlimited and trainer.is_global_zero) as allowance.tick:
                measure(point, current.quantities, self._failures, self._lacking, current.found)
            current.ended = True
            self._note_lacking(trainer, allowance, step)
            self._hand_over(trainer, current)
        self._took(allowance)
        if point is not None:
            point.close()

    def _pause(self, trainer: Any, module: Any, current: InProgress) -> None:
        """Take a measurement as far as one pause of the training allows."""
        allowance = current.allowance
        with self.schedule.pausing(allowance) as full:
            with (
                self._failures.noted("restoring the module"),
                undisturbed(trainer, module, SEED),
                torch.inference_mode(False),
                torch.enable_grad(),
            ):
                current.ended = True  # unless it comes to its end below, and there is more
                try:
                    current.ended = self._advance(trainer, module, current, full=full)
                except OutOfTimeError as error:  # there is no time for the loss alone
                    allowance.costs.relax("gradient")
                    missing = [q.name for q in current.quantities if q.needs]
                    allowance.lacking = dict.fromkeys(missing, error.needed / max(len(missing), 1))
                began = allowance.now()
            if current.ended:
                self._note_lacking(trainer, allowance, current.found.step)
            self._hand_over(trainer, current)
            allowance.costs.put("closing", allowance.now() - began)
        self._current = None if current.ended else current
        if current.ended:
            self._took(allowance)
            self.probe.end()
            current.close()

    def _advance(self, trainer: Any, module: Any, current: InProgress, *, full: bool) -> bool:
        """Evaluate the loss, and measure; whether the measurement has ended.

        Raises:
            OutOfTimeError: there is no time to evaluate the loss.
        """
        begun = current.begun
        with self._failures.noted("evaluating the loss"):
            if begun is None:
                settings = self._given.settings(low_precision(trainer))
                point = self.probe.point(
                    trainer, module, settings, current.allowance, current.index
                )
                if point is None:
                    current.quantities = []
                    return True
                begun = current.begin(point, self._failures, self._lacking)
            else:
                try:
                    self.probe.return_to(begun, trainer, module)
                except MovedError as error:
                    self._warn(f"{error}. What fits in one pause is measured", "moved")
                    self.schedule.spreads = False
                    return True
        current.allowance.costs.put("opening", current.allowance.in_pause)
        if begun is None:
            current.begin(None, self._failures, self._lacking)
        if current.allowance.unlimited or not (self.schedule.spreads and self.probe.can_return):
            shown = current.allowance.unlimited and trainer.is_global_zero
            with bar(shown) as current.allowance.tick:
                current.course.finish()
            return True
        if current.course.advance(last=full):
            return True
        assert begun is not None  # without a point there is nothing to wait for
        self.probe.leave(begun)
        return False

    def _took(self, allowance: Allowance) -> None:
        lacking = sum(allowance.lacking.values())
        self.schedule.took(allowance.spent, reduced=allowance.reduced, lacking=lacking)

    def _hand_over(self, trainer: Any, current: InProgress) -> None:
        """Log the numbers that were finished since this was last called."""
        new = current.finished()
        self._awaited &= not (current.ended or current.knows(Need.SPECTRUM))
        if trainer.world_size > 1:
            new.numbers = mean_over_processes(trainer, new.numbers)
        lacks = current.allowance.lacking or not (current.ended and current.quantities)
        # Of the keys that all processes have; those that are found may differ.
        cheap = {current.prefix + key for key in NEWTON}
        if new.numbers.keys() - cheap or (new.numbers and not lacks):
            self._log(trainer, new)

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

    def _quantities(self, step: int) -> list[Quantity]:
        """Those to measure at a step."""
        return [q for q in self._given.selected() if self._not_before.get(q.name, 0) <= step]

    def _note_lacking(self, trainer: Any, allowance: Allowance, step: int) -> None:
        """Note what there was no time for, as the first process does."""
        self._leave_out(allowance, step)
        self._lacking, self._not_before = self.schedule.agreed(
            trainer, (self._lacking, self._not_before)
        )

    def _leave_out(self, allowance: Allowance, step: int) -> None:
        """Leave out a quantity of which the cheapest form takes longer than the longest pause.

        It is tried again when training has gone on for twice as long: what was timed may have
        been a moment at which the machine was busy, and the first products are the slowest.
        """
        self._lacking = set(allowance.lacking)
        longest = self.schedule.budget.longest_pause
        if longest is None:
            return
        evaluation = self.schedule.costs.estimate("gradient")
        for name, seconds in allowance.lacking.items():
            if longest >= SAFETY * (evaluation + seconds):
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
