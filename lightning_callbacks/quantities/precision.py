"""Whether rounding, and not the optimizer, keeps the loss where it is."""

from __future__ import annotations

import math

import torch

from ..noise import loss_noise
from ..point import Point
from ..work import Unit, Work, run
from .base import Measured, Need, Quantity


class PrecisionNumbers(Quantity):
    r"""The rounding noise of the loss, against what a step along the gradient can still gain.

    The best step along -g is :math:`g^T g / g^T H g` long and gains :math:`(g^T g)^2 / 2 g^T H g`,
    without bound where :math:`g^T H g \le 0`. Where that is less than the standard deviation of
    the rounding errors in the loss (`loss_noise`), no descent along the gradient can be seen: the
    dtype limits the loss, and a method that multiplies by curvature, or a wider dtype, is what
    helps. Costs six evaluations of the loss and one product with H, which `GradientSharpness`
    shares. Under bf16-mixed training, the noise is that of bfloat16.
    """

    name = "precision"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.HESSIAN, Need.EVALUATION})
    light = True
    documentation: tuple[tuple[str, str], ...] = (
        ("precision/loss_noise", "standard deviation of the rounding errors in the loss"),
        ("precision/gain", "what the best step along -g gains, (g'g)^2 / 2 g'Hg"),
        ("precision/limited", "1 where the gain is below the noise, else 0"),
    )

    def compute(self, point: Point) -> Measured:
        """Noise and gain, and a warning where rounding limits the loss."""
        return run(self.work(point), point.allowance)

    def work(self, point: Point) -> Work[Measured]:
        """The same by an evaluation of the loss at a time."""
        guess = point.allowance.estimate("gradient")
        if "gradient_product" not in vars(point):
            yield Unit("product")
        gain = gain_along_gradient(point)
        places = loss_noise(point.params, point.value, _rounding(point))
        try:
            place = next(places)
            while True:
                yield Unit("evaluation of the noise", guess)
                assert point.evaluate is not None  # it is among the needs
                place = places.send(point.evaluate(place))
        except StopIteration as end:
            noise: float = end.value
        return self._measured(point, gain, noise)

    def _measured(self, point: Point, gain: float, noise: float) -> Measured:
        limited = math.nan if math.isnan(noise) or math.isnan(gain) else float(gain < noise)
        if limited == 1:
            point.warn(
                "rounding limits the loss: along the gradient a step gains at most "
                f"{gain:.1e}, and the values of the loss are uncertain by {noise:.1e}. Train in a "
                "wider dtype, as precision='64-true', or stop here",
                "precision",
            )
        return Measured(
            {"precision/loss_noise": noise, "precision/gain": gain, "precision/limited": limited}
        )


def _rounding(point: Point) -> float:
    """The unit of rounding of the loss."""
    return max(point.epsilon, torch.finfo(point.loss.dtype).eps)


def gain_along_gradient(point: Point) -> float:
    """(g'g)^2 / (2 g'Hg), infinite where the loss curves down along the gradient."""
    g = point.gradient.double()
    square = float(g @ g)
    curvature = float(g @ point.gradient_product.double())
    if square == 0:
        return 0.0
    # The square of the square could underflow; the quotient does not.
    return square * (square / curvature) / 2 if curvature > 0 else math.inf
