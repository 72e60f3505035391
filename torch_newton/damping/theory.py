r"""Damping rules that theory suggests for Gauss-Newton and for wide networks.

Both follow the quantity that the damping competes with: the smallest eigenvalue of the tangent
kernel, or the residual. What they rest on is our own derivation, of schedules with properties
that the papers named below state; it is not the papers' wording.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..step import Step
from .rules import RULES, Attempt, DampingContext, DampingRule, damping_rule


@dataclass(frozen=True)
class KernelMin:
    r""":math:`\lambda_k = c\,\max(\kappa_{min}(K_k),\,10^{-12}\kappa_{max}(K_k))`, at every step.

    K_k is the tangent kernel at the k-th point in the units of lambda (for the loss
    :math:`\sum_m r_m^2 / (2M)` it is :math:`J J^T / M`). A step of length lr then multiplies
    every mode's residual by :math:`1 - lr\,\kappa/(\kappa + \lambda) \le 1 - lr/(1 + c)`, as far
    as the network is linear over the step: a rate that does not depend on the smallest
    eigenvalue, which is what Cayci (2024), arXiv 2412.14031, proves of a Levenberg-Marquardt
    method with a damping schedule of this kind for overparameterized networks. The parameters
    move by up to :math:`\kappa_{min}^{-1/2}`, therefore each step is put to a ratio test.

    It needs the rows of the Jacobian: ``preconditioner="auto"`` and a loss of least squares or
    cross-entropy of at most a few thousand rows. Where there are fewer parameters than rows, the
    smallest of as many eigenvalues as parameters counts.

    Args:
        factor: c.
        attempts: how many values of lambda a step may try, each four times the one before.

    Raises:
        ValueError: `factor` is not positive, or `attempts` is not; at a step, where the rows of
            the Jacobian are not in hand, or the kernel is zero.
    """

    factor: float = 1.0
    attempts: int = 8

    def __post_init__(self) -> None:
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise ValueError(f"KernelMin needs a positive finite factor, not {self.factor}")
        if self.attempts < 1:
            raise ValueError(f"KernelMin needs at least one attempt, not {self.attempts}")

    def __call__(self, last: Step | None, scale: DampingContext) -> float:
        if scale.kernel is None:
            raise ValueError(
                "KernelMin needs the tangent kernel, and the Jacobian's rows are not in hand: use "
                "a sum of squares or a cross-entropy of at most 3,000 outputs with "
                "preconditioner='auto', or damping='auto'"
            )
        smallest, largest = scale.kernel()
        damping = self.factor * max(smallest, 1e-12 * largest)
        if not damping > 0:
            raise ValueError("the tangent kernel is zero: the outputs do not depend on parameters")
        # A refused step left the parameters, and hence the kernel, and a larger value to try.
        return damping if last is None or last.accepted else max(damping, last.damping)

    def accepts(self, attempt: Attempt) -> bool:
        """Whether the loss fell by enough of what was predicted."""
        return attempt.ratio >= 1e-4

    def retry(self, damping: float, attempt: Attempt, scale: DampingContext) -> float:
        """Four times the damping."""
        return 4 * damping


@dataclass(frozen=True)
class ResidualFollowing:
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

    def __call__(self, last: Step | None, scale: DampingContext) -> float:
        if not (scale.loss >= 0 and scale.first_loss >= 0):
            raise ValueError(
                f"ResidualFollowing needs a loss that is not negative, such as a sum of squares, "
                f"but it went from {scale.first_loss:g} to {scale.loss:g}"
            )
        share = scale.loss / scale.first_loss if scale.first_loss > 0 else 1.0
        return damping_rule(self.initial)(None, scale) * math.sqrt(share)


RULES["kernel_min"] = KernelMin
RULES["residual"] = ResidualFollowing
