"""One run: train for some seconds, and note the loss of the data now and then."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torch_newton import RegNewton

from .contenders import Contender, newton
from .problem import MiniBatches
from .problems import PROBLEMS

GROWTH = 1.04
"""From one evaluation to the next the number of steps grows by 4 %, which is then the precision of
the number of steps to a loss."""


@dataclass
class Run:
    """What became of a run.

    Attributes:
        steps: at which the loss of the data was taken.
        seconds: of training, without evaluations, until there.
        losses: of the data.
        gradients: cost of a step, in gradients.
        accuracy: on test data at the end; NaN where there is none.
    """

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradients: float = 1.0
    accuracy: float = math.nan

    @property
    def end(self) -> float:
        """The median of the last five losses, which a single good batch does not change."""
        found = statistics.median(self.losses[-5:] or [math.inf])
        return found if math.isfinite(found) else math.inf

    def reached(self, target: float) -> tuple[float, float]:
        """The step and the second at which the loss was first as small; infinite if never."""
        for step, second, loss in zip(self.steps, self.seconds, self.losses, strict=True):
            if loss <= target:
                return step, second
        return math.inf, math.inf


def train(name: str, seed: int, contender: Contender | str, lr: float, seconds: float) -> Run:
    """Train a problem with a peer at a rate, or with RegNewton and a curvature of this name."""
    torch.manual_seed(seed)
    problem = PROBLEMS[name](seed)
    optimizer = (
        newton(problem.net, contender)
        if isinstance(contender, str)
        else contender.make(problem.net, lr)
    )
    run, spent, step, due, costs = Run(), 0.0, 0, 1.0, []
    while spent < seconds:
        batch = next(problem.batches)
        start = time.perf_counter()
        _take(optimizer, problem, batch)
        spent += time.perf_counter() - start
        step += 1
        if isinstance(optimizer, RegNewton) and optimizer.last_step is not None:
            # An exact step counts its passes elsewhere, and its work on rows nowhere.
            costs.append(optimizer.last_step.gradients or math.nan)
        if step >= due:
            due = max(step + 1, step * GROWTH)
            loss = problem.evaluate()
            run.steps.append(step)
            run.seconds.append(spent)
            run.losses.append(loss)
            if not math.isfinite(loss):
                break
    known = [cost for cost in costs if math.isfinite(cost)]
    run.gradients = statistics.fmean(known) if known else 1.0 if not costs else math.nan
    if problem.accuracy is not None:
        run.accuracy = problem.accuracy()
    return run


def _take(optimizer: Any, problem: MiniBatches, batch: Tensor) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss(batch)
        loss.backward()
        return loss

    if isinstance(optimizer, RegNewton):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
