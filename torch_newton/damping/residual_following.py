"""A damping that follows the size of the residual."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..step import Step
from .base import DampingRule
from .context import DampingContext
from .table import damping_rule


@dataclass(frozen=True)
class ResidualFollowing(DampingRule):
    r""":math:`\lambda_k = \lambda_0 \sqrt{L_k / L_0}`: the damping follows the residual's size.

    For a sum of squares the indefinite part of the Hessian shrinks as the residual does, so that
    a :math:`\lambda_0` above its norm at the start keeps :math:`H + \lambda_k I` definite with
    room to spare while lambda tends to zero: convergence speeds up as it proceeds, at all
    frequencies alike. The system is solved exactly and the step taken, without a ratio test.

    Args:
        initial: lambda_0: a number, or a rule whose opening value it is.

    Raises:
        ValueError: at a step, where the loss is negative.
    """

    initial: str | float | DampingRule = "auto"

    def __post_init__(self) -> None:
        damping_rule(self.initial)  # complains now rather than at the first step

    def __call__(self, last: Step | None, context: DampingContext) -> float:
        if not (context.loss >= 0 and context.first_loss >= 0):
            raise ValueError(
                f"ResidualFollowing needs a loss that is not negative, such as a sum of squares, "
                f"but it went from {context.first_loss:g} to {context.loss:g}"
            )
        share = context.loss / context.first_loss if context.first_loss > 0 else 1.0
        return damping_rule(self.initial)(None, context) * math.sqrt(share)
