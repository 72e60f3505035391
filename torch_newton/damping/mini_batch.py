"""Damping for steps of which each sees another batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..step import Step
from .adaptive import CEILING
from .base import RetryingRule
from .context import Attempt, DampingContext

OPENING = 10
"""Steps at the beginning of which each is put to the test, while lambda finds its size."""

WORST = -0.5
"""Ratio below which a step is taken back: the loss of its own batch has then risen by more than
half of what it should have fallen. Smaller rises are part of the noise of mini-batches, in which
the next step sees another loss anyway."""


@dataclass(frozen=True)
class MiniBatch(RetryingRule):
    r"""Levenberg and Marquardt's rule with a memory for batches, tested at some steps only.

    The first `OPENING` steps and then every `period`-th compare the loss of their batch after the
    step with the quadratic model. For a ratio above 3/4 lambda is multiplied by :math:`\omega`
    for each step since the last test, and divided by it for one below 1/4 (Martens and Grosse
    2015, section 6.5, :math:`\omega = 19/20`), at first by a half. A ratio on the batch that the
    step was made for says that the model is good, and not that the batch is like the others;
    so lambda falls by no more than a factor of ten in 14 steps.

    Args:
        start: lambda_0 in units of s, the size of the curvature along the gradient.
        omega: the factor of each step.
        period: steps between two tests.
        floor: smallest lambda in units of s.
        attempts: how many values of lambda a tested step may try.

    Raises:
        ValueError: an argument is out of its range.
    """

    start: float = 1.0
    omega: float = 0.85
    period: int = 5
    floor: float = 1e-6
    attempts: int = 8

    def __post_init__(self) -> None:
        if not (self.start > 0 and math.isfinite(self.start)):
            raise ValueError(f"MiniBatch needs a positive finite start, not {self.start}")
        if not 0 < self.omega <= 1:
            raise ValueError(f"MiniBatch needs an omega in (0, 1], not {self.omega}")
        if self.period < 1 or self.attempts < 1 or not self.floor >= 0:
            raise ValueError(
                "MiniBatch needs a period and attempts of at least 1, and a floor >= 0"
            )

    def tested(self, iteration: int) -> bool:
        """Whether the step of this number, from 1, evaluates the loss where it leads."""
        return iteration <= OPENING or iteration % self.period == 0

    def __call__(self, last: Step | None, context: DampingContext) -> float:
        if last is None:
            return self.start * context.curvature
        if not last.accepted or math.isnan(last.ratio):
            return last.damping
        factor = 0.5 if last.iteration <= OPENING else self.omega**self.period
        if last.ratio > 3 / 4:
            return max(last.damping * factor, self.floor * context.curvature)
        if last.ratio < 1 / 4:
            return min(last.damping / factor, CEILING * context.curvature)
        return last.damping

    def accepts(self, attempt: Attempt) -> bool:
        return attempt.ratio >= WORST

    def retry(self, damping: float, attempt: Attempt, context: DampingContext) -> float:
        """Four times as much."""
        return min(4 * damping, CEILING * context.curvature)
