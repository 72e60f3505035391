"""The default damping: it starts from the width and follows a ratio test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..step import Step
from .base import RetryingRule
from .context import Attempt, DampingContext

FLOOR = 10.0
"""Smallest lambda in units of eps s. Rounding in a product with A is of the order eps |A|, which
is s to within a factor of three: a smaller lambda drowns in it, and every ratio is then noise."""

LEAST_FLOOR = 1e-12
"""The same in units of s, for double precision: the rounding of a Gram matrix of 3,000 rows,
R eps s = 7e-13 s, may be negative, and a Cholesky factor needs more than that."""

CEILING = 1e6
"""Largest lambda in units of s: the step is then a millionth of the gradient step 1/s. Where that
does not lower the loss, rounding refuses it, and an unbounded lambda would run to overflow."""

STOCHASTIC_FLOOR = 1e-2
"""Smallest lambda for mini-batches in units of s n^-delta: the start of the deterministic rule."""


@dataclass(frozen=True)
class Adaptive(RetryingRule):
    r"""Start from :math:`\lambda_0\,s\,n^{-\delta}`, then follow the ratio test.

    s is the curvature scale and n the width, so that the start has the paper's dependence on
    width in the paper's setting and does not depend on how the loss is scaled or reduced. After
    a step with the exact Hessian and a ratio :math:`\rho` of actual to predicted reduction,
    lambda is multiplied by :math:`\max(1/3,\,1-(2\min(\rho, 3/2)-1)^3)` (Nielsen 1999, *Damping
    parameter in Marquardt's method*), and by 2 where the solver found negative curvature. A
    Gauss-Newton model leaves out what the Hessian has beside it, and a network of ReLUs has kinks
    within every step, so that the ratio settles well below one at any lambda; there it is
    multiplied by 1/5 for a ratio above 3/4 and by 1/2 above 1/4. It is kept within
    [:math:`10\varepsilon s`, :math:`10^6 s`], with the :math:`\varepsilon` of the system's matrix.

    Args:
        start: lambda_0. The ratio test corrects it within a few steps: final losses on the
            benchmark problems do not depend on it from 1e-4 to 10.
        exponent: delta; 1/4 is within the theory's window 0 <= delta < 1 - beta for networks
            of standard parametrization and for output scalings of beta < 3/4.
        stochastic: whether each step sees another batch; lambda then stays above 1 % of
            :math:`s n^{-\delta}`, because a smaller one fits the batch and not the data.
        attempts: how many values of lambda a step may try; the factors of `retry` multiply up
            to 2**26 over eight of them, from the floor past any step that can be refused.

    Raises:
        ValueError: `start` is not positive, or `attempts` is not.
    """

    start: float = 1e-2
    exponent: float = 0.25
    stochastic: bool = False
    attempts: int = 8

    def __post_init__(self) -> None:
        if not (self.start > 0 and math.isfinite(self.start)):
            raise ValueError(f"Adaptive needs a positive finite start, not {self.start}")
        if self.attempts < 1:
            raise ValueError(f"Adaptive needs at least one attempt, not {self.attempts}")

    def __call__(self, last: Step | None, context: DampingContext) -> float:
        if last is None:
            return self._clip(self._initial(context), context)
        if not last.accepted or math.isnan(last.ratio):  # there was nothing to learn: lr was zero
            return self._clip(last.damping, context)
        return self._clip(_factor(last) * last.damping, context)

    def retry(self, damping: float, attempt: Attempt, context: DampingContext) -> float:
        """A larger lambda after a failed attempt."""
        if not attempt.solved:
            if not math.isfinite(attempt.curvature):  # overflow says nothing of the size it needs
                return self._clip(10 * damping, context)
            # Twice the negative curvature makes the damped one as positive as it was negative.
            return self._clip(max(4 * damping, 2 * abs(attempt.curvature)), context)
        if not attempt.predicted > 0:
            return self._clip(4 * damping, context)
        # Nielsen's growing factors 2, 4, 8, ..., but at most 16: beyond, a step would overshoot
        # the lambda it needs by more than the next ones can bring down.
        return self._clip(damping * min(2**attempt.number, 16), context)

    def _initial(self, context: DampingContext) -> float:
        return self.start * context.curvature * context.width_to(-self.exponent)

    def _clip(self, damping: float, context: DampingContext) -> float:
        unit = context.epsilon if context.rounding is None else context.rounding
        floor = max(FLOOR * unit, LEAST_FLOOR) * context.curvature
        if self.stochastic:
            floor = STOCHASTIC_FLOOR * self._initial(context) / self.start
        return min(max(damping, floor), CEILING * context.curvature)


def _factor(last: Step) -> float:
    """By how much lambda changes after an accepted step."""
    if last.negative_curvature:
        return 2.0
    if last.system.exact:
        return max(1 / 3, 1 - (2 * min(last.ratio, 1.5) - 1) ** 3)
    # Over the benchmark suite 1/5 reaches the targets in 0.95 s where 1/10 takes 1.14 s and
    # Nielsen's factor, which is never below 1/3, takes 1.38 s.
    return 1 / 5 if last.ratio > 3 / 4 else 1 / 2 if last.ratio > 1 / 4 else 1.0
