"""Critical sharpness: the curvature that stops the last step, from values of the loss alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..point import Point
from .base import Measured, Need, Quantity

EVALUATIONS = 9
"""Evaluations of the loss at most: "fewer than ten" (Kalra et al. 2026)."""

TOLERANCE = 1 / 16
"""The bracket is halved until its ends differ by this share, as in the paper's own code."""


@dataclass(frozen=True)
class Bracket:
    """The loss is no larger at `low` than at zero, and larger at `high`, which may be infinite."""

    low: float
    high: float


class CriticalSharpness(Quantity):
    r"""The critical sharpness :math:`\lambda_c = 2/\eta_c`.

    :math:`\eta_c` is the smallest learning rate with which the last step, from where it began,
    would have increased the loss (Kalra, Gagnon-Audet, Gromov, Mediratta, Niu, Miller, Shvartsman
    2026, *A scalable measure of loss landscape curvature*, arXiv 2601.16979). On a quadratic loss
    under gradient descent it is the curvature along the gradient. It is found by doubling or
    halving the step until it is bracketed and by bisecting that: a loss that falls, rises and
    falls again may be bracketed at a later crossing. In units of the step itself, any optimizer
    has :math:`s_c = \eta_c/\eta`; a step is too long where it is below one.

    Costs at most nine evaluations of the loss, without gradients, and the memory of one vector of
    P entries from step to step.
    """

    name = "critical"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.STEP, Need.EVALUATION})
    light = True
    documentation: tuple[tuple[str, str], ...] = (
        ("critical/sharpness", "2 over the learning rate at which a step raises the loss"),
        ("critical/sharpness_low", "lower bound of it"),
        ("critical/sharpness_high", "upper bound of it"),
        ("critical/step", "how many times as long the last step raises the loss"),
    )

    def compute(self, point: Point) -> Measured:
        """The middle of the bracket, and its ends; NaN where the loss at the start is not known."""
        last, evaluate = point.displacement, point.evaluate
        assert last is not None
        assert evaluate is not None  # both are among the needs
        if not bool(last.vector.any()):
            return Measured(self.unknown())
        cost = point.allowance.estimate("evaluation", point.allowance.estimate("gradient"))
        point.allowance.require(EVALUATIONS * cost)
        known = {1.0: float(point.loss)}

        def loss_at(length: float) -> float:
            if length not in known:
                known[length] = evaluate((length - 1) * last.vector)
            return known[length]

        bracket = bracketed(loss_at)
        rate = last.learning_rate
        return Measured(
            {
                "critical/sharpness": _over(2, rate * (bracket.low + bracket.high) / 2),
                "critical/sharpness_low": _over(2, rate * bracket.high),
                "critical/sharpness_high": _over(2, rate * bracket.low),
                "critical/step": (bracket.low + bracket.high) / 2,
            }
        )

    def unknown(self) -> dict[str, float]:
        """NaN between zero and infinity."""
        return {
            "critical/sharpness": math.nan,
            "critical/sharpness_low": 0.0,
            "critical/sharpness_high": math.inf,
            "critical/step": math.nan,
        }


def bracketed(loss_at: Callable[[float], float], evaluations: int = EVALUATIONS) -> Bracket:
    """Where the loss along a step first exceeds that at its start.

    Args:
        loss_at: the loss after so many times the step; at 1 it is known already.
        evaluations: of the loss at most, the one at zero included.
    """
    start = loss_at(0.0)
    low, high, length, left = 0.0, math.inf, 1.0, evaluations - 1
    while left >= 0 and (high == math.inf or high - low > TOLERANCE * high):
        if loss_at(length) <= start:
            low = length
        else:  # larger, or not a number
            high = length
        # From low = 0 the middle is half of high, so that shorter steps are tried by halving.
        length = 2 * low if high == math.inf else (low + high) / 2
        left -= 1
    return Bracket(low, high)


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.inf
