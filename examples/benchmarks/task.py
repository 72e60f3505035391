"""One run's clock, counters and record: the same for every contender."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress

import torch
from torch import Tensor
from torch.optim import Optimizer

from .problem import Instance, Problem

SPACING = 1.02  # a curve point, and a look at the error, at most every 2 % of the elapsed time
STALL = 50  # steps without any change of the parameters after which a run is over


class Finished(BaseException):
    """Ends a run from inside a contender; a BaseException, so that no peer swallows it."""


class Task:
    """What a contender gets: the counted loss, and `tick` to call after each of its steps."""

    def __init__(self, problem: Problem, instance: Instance, budget: float) -> None:
        self.problem, self.instance, self.budget = problem, instance, budget
        self.steps = self.closure_calls = 0
        self.products: int | None = None  # stays None where a contender cannot report them
        self.cg_iterations: list[int] = []
        self.extra: dict[str, float | str] = {}  # what a contender wants to see in the record
        self.best_loss = self.best_error = math.inf
        self.reached: dict[float, tuple[float, int, int]] = {}  # seconds, closure calls, steps
        self.curve: list[tuple[float, int, float, float]] = []
        self._started, self._paused = math.nan, 0.0
        self._pause_began: float | None = None
        self._last_look = self._last_point = -math.inf
        self._snapshot: list[Tensor] = []

    # -- the clock ---------------------------------------------------------------------------
    def start(self) -> None:
        """Start the clock, with the initial loss as the first point of the curve."""
        self._started = time.perf_counter()
        self._look()

    def elapsed(self) -> float:
        """Seconds charged to the contender: the clock stands still while recording."""
        now = self._pause_began if self._pause_began is not None else time.perf_counter()
        return now - self._started - self._paused

    @contextmanager
    def paused(self):
        if self._pause_began is not None:  # recording within recording
            yield
            return
        self._pause_began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - self._pause_began
            self._pause_began = None

    def check_time(self) -> None:
        if self._pause_began is None and self.elapsed() > self.budget:
            raise Finished("budget")

    # -- what a contender calls --------------------------------------------------------------
    def loss(self) -> Tensor:
        """The loss with a fresh graph; one closure call, whoever asks."""
        self.check_time()
        self.closure_calls += 1
        loss = self.instance.loss()
        if self.instance.full_loss is None:
            self.observe(float(loss.detach()))
        return loss

    def closure(self, optimizer: Optimizer) -> Callable[[], Tensor]:
        """The closure that every PyTorch user writes."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        return closure

    def product(self) -> None:
        """Count one Hessian- or Gauss-Newton-vector product."""
        self.products = (self.products or 0) + 1

    def tick(self, evaluate: bool = False) -> None:
        """One step is over. ``evaluate``: the contender never calls `loss`, so look here."""
        self.steps += 1
        with self.paused():
            if (evaluate or self.instance.full_loss is not None) and self._due():
                self._look()
            if self.steps % STALL == 0:
                self._stop_if_stalled()
            if self.instance.next_batch is not None:
                self.instance.next_batch()
        self.check_time()

    # -- the record --------------------------------------------------------------------------
    def observe(self, loss: float) -> None:
        """Record a loss that was met at the current parameters, off the clock.

        An error is looked at where the loss is the best so far: it belongs to the parameters
        that a user would keep.
        """
        now = self.elapsed()
        with self.paused():
            better = loss < self.best_loss
            self.best_loss = min(self.best_loss, loss)
            if self.instance.error is not None and (
                self.problem.watch_every_call or (better and self._due())
            ):
                self._last_look = now
                self.best_error = min(self.best_error, self.instance.error())
            if better or self.problem.watch_every_call:
                self._record(now)

    def measured(self) -> float:
        return self.best_loss if self.problem.measure == "loss" else self.best_error

    def close(self) -> None:
        """The last look, at the parameters as the contender left them."""
        self._last_look = -math.inf  # an error is due now
        with suppress(Finished):
            self._look()

    def _look(self) -> None:
        with self.paused(), torch.enable_grad():
            loss = (self.instance.full_loss or self.instance.loss)()
            self.observe(float(loss.detach()))
            self._last_look = self.elapsed()

    def _due(self) -> bool:
        return self.elapsed() >= SPACING * self._last_look

    def _record(self, now: float) -> None:
        point = (now, self.closure_calls, self.best_loss, self.best_error)
        if now >= SPACING * self._last_point:
            self.curve.append(point)
            self._last_point = now
        else:
            self.curve[-1] = point
        if now > SPACING * self.budget:  # the alarm rings with a delay
            return
        for target in self.problem.targets:
            if self.measured() <= target and target not in self.reached:
                self.reached[target] = (now, self.closure_calls, self.steps)
        if len(self.reached) == len(self.problem.targets):
            raise Finished("all targets reached")

    def _stop_if_stalled(self) -> None:
        now = [p.detach().clone() for p in self.instance.params]
        if self._snapshot and all(map(torch.equal, now, self._snapshot)):
            raise Finished("stalled")
        self._snapshot = now
