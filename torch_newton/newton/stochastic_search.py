"""The attempts of a mini-batch step: one damping after another, until a step is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ..closure.evaluator import Evaluator
from ..closure.start import Start
from ..damping import Attempt, DampingContext, MiniBatch
from ..linalg.flat import norm
from ..linalg.solution import Stop
from ..preconditioners.kronecker import KroneckerFactored
from ..step import Step
from .checks import checked_damping
from .curvature_along import CurvatureAlong
from .options import Options
from .trust_region import ROUNDING

KEPT, GAIN = 0.5, 0.75
"""Weights of the last step and of the new one. The series adds up to 1.5 new steps, each spread
over those that follow, so that what only its own batch asks for cancels. After 64 steps digits
with a convolutional network come to a loss of 6e-4, where a step of 1 without inertia, or with the
momentum that the model of the batch asks for, comes to 8.5e-4; a language model of 120,000
parameters after 80 to 2.63 for 2.69. A resampled Poisson equation loses by it: 0.41 for 0.19 after
56."""

LONG = 2.0
"""Lengths of the last step beyond which a step is tested also where no test is due."""


@dataclass(frozen=True)
class StochasticSearch:
    """The attempts of one step.

    Attributes:
        begin: where it begins.
        evaluator: of the closure.
        options: the damping rule.
        K: the curvature.
        along: the curvature along a direction; None where outputs cannot be read.
        context: what the damping is measured against.
        last: the last step.
        lengths: the step in units of the solution, one number or P of them.
    """

    begin: Start
    evaluator: Evaluator
    options: Options
    K: KroneckerFactored
    along: CurvatureAlong | None
    context: DampingContext
    last: Step | None
    lengths: float | Tensor

    def run(self, step: Step, before: Tensor | None) -> tuple[Step, Tensor | None]:
        """What was done, written into `step`, and by how much to move, where it was accepted.

        Args:
            step: what is known before the first attempt.
            before: the move of the last step.
        """
        if step.gradient_norm == 0:
            return step, None
        rule, retrying = self.options.damping, self.options.retrying
        damping = checked_damping(rule(self.last, self.context), needed=True)
        for number in range(1, retrying.attempts + 1 if retrying is not None else 2):
            # After a refusal without inertia, which may be what led astray.
            direction = self._direction(damping, before if number == 1 else None)
            tested = self._is_tested(step, direction, before)
            attempt = self._try(number, direction, step, tested)
            accepted = self._accepts(attempt)
            if accepted or retrying is None:
                break
            retried = retrying.retry(damping, attempt, self.context)
            damping = checked_damping(retried, needed=True)
        step = replace(
            step,
            loss_after=attempt.loss if accepted else step.loss,
            damping=damping,
            ratio=attempt.ratio if math.isfinite(attempt.ratio) else math.nan,
            accepted=accepted,
            attempts=number,
            closure_calls=self.evaluator.calls,
            stop=Stop.CONVERGED,
            step_length=norm(direction) if accepted else 0.0,
        )
        return step, direction if accepted else None

    def _direction(self, damping: float, before: Tensor | None) -> Tensor:
        """The step: along d as far as the batch allows, and on along the last one."""
        weight, g = self.begin.surrogate.weight, self.begin.gradient
        decay = self.begin.surrogate.decay
        W = None if decay is None else decay.diagonal / weight
        d = -self.K.solve(g, damping / weight, W) / weight
        if isinstance(self.lengths, Tensor):
            d = self.lengths * d
        curvature = self._along(d)
        alpha = 1.0
        if curvature is not None:
            alpha = -float(g @ d) / (curvature + damping * float(d @ d))
        if not isinstance(self.lengths, Tensor):
            alpha *= self.lengths
        return alpha * d if before is None else KEPT * before + GAIN * alpha * d

    def _along(self, direction: Tensor) -> float | None:
        """The curvature along a direction, with that of the weight decay."""
        found = None if self.along is None else self.along(direction)
        decay = self.begin.surrogate.decay
        return found if found is None or decay is None else found + decay.along(direction)

    def _is_tested(self, step: Step, direction: Tensor, before: Tensor | None) -> bool:
        """Whether the loss is evaluated where the step leads."""
        rule = self.options.damping
        if before is None or norm(direction) > LONG * norm(before):
            return True
        if isinstance(rule, MiniBatch):
            return rule.tested(step.iteration)
        return self.options.retrying is not None

    def _try(self, number: int, direction: Tensor, step: Step, tested: bool) -> Attempt:
        """The step, with its loss and its ratio where it is tested."""
        untried = Attempt(number, True, math.inf, math.nan, math.nan, False, direction, math.nan)
        if not tested:
            return untried
        value, _ = self.evaluator.loss_at(direction)
        value = self.begin.surrogate.loss(value, direction)
        curvature = self._along(direction)
        predicted = math.nan
        if curvature is not None:
            predicted = -float(self.begin.gradient @ direction) - 0.5 * curvature
        ratio = _ratio(step.loss, predicted, value, self.context.epsilon)
        return replace(untried, loss=value, predicted=predicted, ratio=ratio)

    def _accepts(self, attempt: Attempt) -> bool:
        """Whether a step is taken: untested, or where its test says so."""
        retrying = self.options.retrying
        if math.isnan(attempt.ratio):
            return True
        return attempt.ratio != -math.inf and (retrying is None or retrying.accepts(attempt))


def _ratio(loss: float, predicted: float, value: float, epsilon: float) -> float:
    """Actual over predicted reduction, with a term for rounding.

    Minus infinity for a loss that is not finite; NaN where no reduction was predicted.
    """
    if not math.isfinite(value):
        return -math.inf
    if not predicted > 0:
        return math.nan
    rounding = ROUNDING * epsilon * abs(loss)
    return (loss - value + rounding) / (predicted + rounding)
