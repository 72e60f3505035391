"""One run: the clock, the record of error against time, and the progress that is shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from .contenders import CONTENDERS
from .problem import Problem, Training
from .store import Run

SPACING = 1.01
"""The error is looked at where the clock is 1 % on since the last look: a curve of a few hundred
points, and steps to a milestone to 1 %."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Clock:
    """Seconds of the contender's own work: it stands still while an error is measured."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, math.nan

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._since


def closure_of(training: Training) -> Callable[[], Tensor]:
    """The closure that every PyTorch user writes."""
    params = list(training.net.parameters())

    def closure() -> Tensor:
        for param in params:
            param.grad = None
        loss = training.loss()
        loss.backward()
        return loss

    return closure


def run(
    problem: Problem,
    contender: str,
    seed: int,
    budget: float,
    watch: Callable[[int, Training], None] | None = None,
) -> Run:
    """Train for `budget` seconds; `watch` is called after each step, off the clock."""
    record = Run(problem.name, contender, seed, budget)
    with default_dtype(problem.dtype):
        torch.manual_seed(seed)
        training = problem.build(seed)
        try:
            _train(record, training, problem.draw_every, watch)
        except Exception as error:  # shown as such, and the others go on
            record.status = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return record


def _train(
    record: Run,
    training: Training,
    draw_every: int,
    watch: Callable[[int, Training], None] | None,
) -> None:
    budget, name = record.budget, f"{record.problem} {record.seed}"
    best = training.error()
    record.curve.append((0.0, 0, float(training.loss().detach()), best))
    take = CONTENDERS[record.contender](list(training.net.parameters()), budget)
    closure, clock = closure_of(training), Clock()
    with tqdm(total=round(budget), unit="s", desc=name, leave=False) as bar:
        while clock.seconds < budget:
            with clock:
                if draw_every and record.steps % draw_every == 0:
                    training.redraw()
                loss = float(take(closure).detach())
            record.steps += 1
            if watch is not None:
                watch(record.steps, training)
            if clock.seconds >= min(budget, SPACING * record.curve[-1][0]):
                best = min(best, _number(training.error()))
                record.curve.append((clock.seconds, record.steps, loss, best))
                bar.set_postfix_str(f"{record.contender}: error {best:.1e}", refresh=False)
                bar.update(min(round(clock.seconds), bar.total) - bar.n)


def _number(error: float) -> float:
    """A network that has come to NaN has no error below any other."""
    return math.inf if math.isnan(error) else error
