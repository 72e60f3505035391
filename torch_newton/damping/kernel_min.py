"""A damping that follows the smallest eigenvalue of the tangent kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..step import Step
from .base import RetryingRule
from .context import Attempt, DampingContext

LEAST = 1e-12
"""Smallest kernel eigenvalue that counts, relative to the largest: what `eigvalsh` returns below
R eps times the largest, 7e-13 of it for 3,000 rows, is rounding."""


@dataclass(frozen=True)
class KernelMin(RetryingRule):
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

    def __call__(self, last: Step | None, context: DampingContext) -> float:
        if context.kernel is None:
            raise ValueError(
                "KernelMin needs the tangent kernel, and the Jacobian's rows are not in hand: use "
                "a sum of squares or a cross-entropy of at most 3,000 outputs with "
                "preconditioner='auto', or damping='auto'"
            )
        smallest, largest = context.kernel()
        damping = self.factor * max(smallest, LEAST * largest)
        if not damping > 0:
            raise ValueError("the tangent kernel is zero: the outputs do not depend on parameters")
        # A refused step left the parameters, and hence the kernel, and a larger value to try.
        return damping if last is None or last.accepted else max(damping, last.damping)

    def retry(self, damping: float, attempt: Attempt, context: DampingContext) -> float:
        """Four times the damping: eight attempts span 4**7, more than a step is refused by."""
        return 4 * damping
