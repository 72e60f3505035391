"""The fixed damping of the theory of wide networks."""

from __future__ import annotations

from dataclasses import dataclass

from ..nn import check_beta
from ..step import Step
from .base import DampingRule
from .context import DampingContext


@dataclass(frozen=True)
class WidthScaled(DampingRule):
    r"""The paper's fixed damping, :math:`\gamma_N = q\,\gamma\,N^{1-2\beta}`.

    Riedl, Spiliopoulos and Sirignano (2026): with outputs scaled by :math:`N^{-\beta}` and this
    damping, the regularized Hessian of a wide enough one-hidden-layer network stays positive
    definite while it trains, and the Newton neural tangent kernel has a limit.

    Another exponent, :math:`q\,\gamma\,N^{-\delta}`, is admissible for
    :math:`2\beta - 1 \le \delta < \beta` by our own derivation: the indefinite part of the
    Hessian is of the order :math:`RMS(r)\,N^{-\beta}`, so that a damping of a larger
    :math:`\delta` ends below it, while one of a smaller :math:`\delta` outgrows the kernel,
    whose eigenvalues are of the order :math:`N^{1-2\beta}`, and stops all motion. Above
    :math:`2\beta - 1` the rates :math:`\kappa/(\kappa + \gamma_N N^{2\beta-1})` tend to one.

    Args:
        gamma: the constant in front. At finite width it takes
            :math:`\gamma > C\,RMS(r)\,N^{-(\beta - \delta)}` for a definite matrix; the
            optimizer warns where it finds negative curvature.
        beta: exponent of the output scaling, in [1/2, 1).
        loss_factor: q, the loss over :math:`\sum_m (f(x_m) - y_m)^2 / (2M)`, with K outputs:
            1 for that loss itself, 2/K for ``MSELoss()``, 2M for a sum of squares.
        exponent: delta; 2 beta - 1, the paper's, where None.

    Raises:
        ValueError: a constant is out of its range.
    """

    gamma: float = 0.1
    beta: float = 0.52
    loss_factor: float = 1.0
    exponent: float | None = None

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and self.loss_factor > 0):
            raise ValueError("WidthScaled needs gamma > 0 and loss_factor > 0")
        check_beta("WidthScaled", self.beta)
        low, high = 2 * self.beta - 1, self.beta
        if not low <= self.delta < high:
            below = self.delta < low
            raise ValueError(
                f"WidthScaled needs 2 beta - 1 <= exponent < beta, here [{low:g}, {high:g}), not "
                f"{self.delta:g}: "
                + (
                    "a smaller one lets the damping outgrow the kernel, and training stops as "
                    "the width grows"
                    if below
                    else "a larger one lets the damping fall below the Hessian's indefinite part "
                    "as the width grows; give damping a number to use one at a single width"
                )
            )

    @property
    def delta(self) -> float:
        """The exponent in use."""
        return 2 * self.beta - 1 if self.exponent is None else self.exponent

    def __call__(self, last: Step | None, context: DampingContext) -> float:
        return self.loss_factor * self.gamma * context.width_to(-self.delta)
