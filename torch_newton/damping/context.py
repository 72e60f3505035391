"""What a damping rule knows of a step: the context before it, and each attempt after."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class DampingContext:
    """What a damping is measured against.

    Attributes:
        curvature: s = |H g| / |g| at the first gradient that is not zero; 1 until there is one.
            It grows with the loss as the Hessian does, is positive, and costs one product.
        width: n, the network's width.
        epsilon: the distance from 1 to the next number in the parameters' dtype.
        loss: L at the start of the step.
        first_loss: L at the start of the first step.
        kernel: smallest and largest eigenvalue of the tangent kernel in the units of lambda,
            that is of the smaller of J J^T and J^T J with the square root of the loss's second
            derivative multiplied into J; computed when called. None where the Jacobian's rows
            are not in hand.
        rounding: the unit of rounding in products with the matrix that is damped, where that is
            held in another precision than the parameters; None where it is `epsilon`.
    """

    curvature: float
    width: int
    epsilon: float
    loss: float = math.nan
    first_loss: float = math.nan
    kernel: Callable[[], tuple[float, float]] | None = None
    rounding: float | None = None

    def width_to(self, exponent: float) -> float:
        """n ** exponent."""
        return math.pow(self.width, exponent)


@dataclass(frozen=True)
class Attempt:
    """What became of one value of lambda within a step.

    Attributes:
        number: 1 for the first attempt of the step.
        solved: whether a direction came out; if not, the first direction of all had no
            positive curvature, and `curvature` is what it had.
        curvature: smallest p^T H p / p^T p over the solver's directions p, without lambda;
            NaN where not finite.
        predicted: reduction of the quadratic model along the step.
        ratio: actual over predicted reduction; NaN where nothing was evaluated.
        negative_curvature: whether the solver saw that H + lambda I is not definite.
        direction: by how much the parameters would move, P entries; None where nothing came out.
        loss: at the end of `direction`; NaN where it is not finite.
        corrected: whether `direction` holds a second-order correction.
    """

    number: int
    solved: bool
    curvature: float
    predicted: float
    ratio: float
    negative_curvature: bool
    direction: Tensor | None = field(default=None, repr=False, compare=False)
    loss: float = math.nan
    corrected: bool = False
