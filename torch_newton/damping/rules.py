"""Rules for the damping lambda of (H + lambda I) d = -g.

A rule is any callable ``rule(last, scale) -> lambda`` of the last `Step` that solved a system,
None at first, and of the `DampingContext` that lambda is measured against. Rules hold no state:
the last step is their memory. A rule that also has the methods of `RetryingRule` puts each step
to a ratio test, and is asked again where a step fails it. To add a rule, write it here or
anywhere else, and give it a name in `RULES` if it shall have one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..step import Step


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
    """

    curvature: float
    width: int
    epsilon: float
    loss: float = math.nan
    first_loss: float = math.nan
    kernel: Callable[[], tuple[float, float]] | None = None

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
        curvature: smallest p^T H p / p^T p met, without lambda; NaN where not finite.
        predicted: reduction of the quadratic model along the step.
        ratio: actual over predicted reduction; NaN where nothing was evaluated.
        negative_curvature: whether the solver saw that H + lambda I is not definite.
    """

    number: int
    solved: bool
    curvature: float
    predicted: float
    ratio: float
    negative_curvature: bool


class DampingRule(Protocol):
    """A callable that gives the lambda with which to open the next step."""

    def __call__(self, last: Step | None, scale: DampingContext) -> float: ...


@runtime_checkable
class RetryingRule(Protocol):
    """A rule whose steps are put to a ratio test."""

    attempts: int

    def __call__(self, last: Step | None, scale: DampingContext) -> float: ...

    def retry(self, damping: float, attempt: Attempt, scale: DampingContext) -> float: ...

    def accepts(self, attempt: Attempt) -> bool: ...


@dataclass(frozen=True)
class Fixed:
    """The same lambda at every step, absolute: (H + lambda I) d = -g is solved and taken."""

    value: float

    def __call__(self, last: Step | None, scale: DampingContext) -> float:
        return self.value


def check_beta(owner: str, beta: float) -> float:
    """`beta`, the exponent of a network's output scaling N^-beta, for what `owner` makes of it.

    Raises:
        ValueError: it is not in [1/2, 1).
    """
    if not 0.5 <= beta < 1:
        raise ValueError(
            f"{owner} needs an output scaling of 1/2 <= beta < 1, not {beta}: below, the output "
            "grows with the width; from 1 on no exponent of the damping is admissible"
        )
    return beta


@dataclass(frozen=True)
class WidthScaled:
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
            optimizer warns where it meets negative curvature.
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

    def __call__(self, last: Step | None, scale: DampingContext) -> float:
        return self.loss_factor * self.gamma * scale.width_to(-self.delta)


@dataclass(frozen=True)
class Adaptive:
    r"""Start from :math:`\lambda_0\,s\,n^{-\delta}`, then follow the ratio test.

    s is the curvature scale and n the width, so that the start has the paper's dependence on
    width in the paper's setting and does not depend on how the loss is scaled or reduced. After
    a step with the exact Hessian and a ratio :math:`\rho` of actual to predicted reduction,
    lambda is multiplied by :math:`\max(1/3,\,1-(2\min(\rho, 3/2)-1)^3)` (Nielsen 1999, *Damping
    parameter in Marquardt's method*), and by 2 where the solver met negative curvature. A
    Gauss-Newton model leaves out what the Hessian has beside it, and a network of ReLUs has kinks
    within every step, so that the ratio settles well below one at any lambda; there it is
    multiplied by 1/5 for a ratio above 3/4 and by 1/2 above 1/4. It is kept within
    [:math:`10\varepsilon s`, :math:`10^6 s`].

    Args:
        start: lambda_0.
        exponent: delta.
        stochastic: whether each step sees another batch; lambda then stays above 1 % of
            :math:`s n^{-\delta}`, because a smaller one fits the batch and not the data.
        attempts: how many values of lambda a step may try.

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

    def __call__(self, last: Step | None, scale: DampingContext) -> float:
        if last is None:
            return self._clip(self._initial(scale), scale)
        if not last.accepted or math.isnan(last.ratio):  # nothing was learned: lr was zero
            return self._clip(last.damping, scale)
        if last.negative_curvature:
            factor = 2.0
        elif last.arm.exact:
            factor = max(1 / 3, 1 - (2 * min(last.ratio, 1.5) - 1) ** 3)
        else:
            factor = 1 / 5 if last.ratio > 3 / 4 else 1 / 2 if last.ratio > 1 / 4 else 1.0
        return self._clip(factor * last.damping, scale)

    def accepts(self, attempt: Attempt) -> bool:
        """Whether the loss fell by enough of what was predicted."""
        return attempt.ratio >= 1e-4

    def retry(self, damping: float, attempt: Attempt, scale: DampingContext) -> float:
        """A larger lambda after a failed attempt."""
        if not attempt.solved:
            if not math.isfinite(attempt.curvature):
                return self._clip(10 * damping, scale)
            return self._clip(max(4 * damping, 2 * abs(attempt.curvature)), scale)
        if not attempt.predicted > 0:
            return self._clip(4 * damping, scale)
        return self._clip(damping * min(2**attempt.number, 16), scale)

    def _initial(self, scale: DampingContext) -> float:
        return self.start * scale.curvature * scale.width_to(-self.exponent)

    def _clip(self, damping: float, scale: DampingContext) -> float:
        floor = max(10 * scale.epsilon, 1e-12) * scale.curvature
        if self.stochastic:
            floor = 1e-2 * self._initial(scale) / self.start
        return min(max(damping, floor), 1e6 * scale.curvature)


RULES: dict[str, Callable[[], DampingRule]] = {
    "auto": Adaptive,
    "width": WidthScaled,
}


def damping_rule(damping: str | float | DampingRule) -> DampingRule:
    """The rule that `damping` stands for: a name in `RULES`, a number, or a rule itself.

    Raises:
        ValueError: an unknown name, or a number that is negative or not finite.
        TypeError: none of these.
    """
    if isinstance(damping, str):
        if damping not in RULES:
            names = ", ".join(repr(name) for name in RULES)
            raise ValueError(f"unknown damping {damping!r}: use {names}, a number or a callable")
        return RULES[damping]()
    if isinstance(damping, (int, float)) and not isinstance(damping, bool):
        if not (damping >= 0 and math.isfinite(damping)):
            raise ValueError(f"damping must be a finite number >= 0, not {damping}")
        return Fixed(float(damping))
    if callable(damping):
        return damping
    raise TypeError(f"damping must be a name, a number or a callable, not {type(damping).__name__}")


def width(params: Sequence[Tensor]) -> int:
    """The width n of a network, from the shapes of its parameters.

    The largest fan-in, numel / shape[0], over the parameters of two or more dimensions. A network
    written with bare tensors has its output weights as a vector: where there is one matrix alone
    and a vector as long as the matrix has rows, that length counts too.

    >>> import torch
    >>> width(list(torch.nn.Linear(1, 1000).parameters()))
    1000
    >>> width(list(torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)).parameters()))
    72
    """
    shapes = [tuple(param.shape) for param in params]
    matrices = [shape for shape in shapes if len(shape) >= 2 and shape[0] > 0]
    n = max([1, *(math.prod(shape[1:]) for shape in matrices)])
    if len(matrices) == 1 and (matrices[0][0],) in shapes:
        n = max(n, matrices[0][0])
    return n
