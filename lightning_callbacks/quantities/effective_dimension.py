"""How many directions of the outputs the damping leaves to learn."""

from __future__ import annotations

import math

from ..point import Point
from .base import Measured, Need, Quantity


class EffectiveDimension(Quantity):
    r"""The effective dimension, :math:`\mathrm{tr}\, K (K + \lambda I)^{-1}`.

    With :math:`\kappa` the eigenvalues of :math:`K = Q^{1/2} J J^T Q^{1/2}` it is the sum of
    :math:`\kappa/(\kappa + \lambda)`, the trace of the Newton kernel in Gauss-Newton form: the
    number of directions that a step damped by :math:`\lambda` does not hold back (Zhang 2005,
    *Learning bounds for kernel regression using effective data dimensionality*; MacKay 1992 calls
    it the number of well-determined parameters). Costs nothing where the kernel's eigenvalues are
    all known. Where only the extreme ones are, it is NaN, and the bounds follow from these.
    """

    name = "effective_dimension"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.WEIGHTED_KERNEL})
    documentation: tuple[tuple[str, str], ...] = (
        ("effective_dimension/value", "tr K (K + lambda I)^-1 of the weighted kernel K"),
        ("effective_dimension/low", "lower bound of it"),
        ("effective_dimension/high", "upper bound of it"),
    )

    def compute(self, point: Point) -> Measured:
        """The sum of the eigenvalues of the Newton kernel, or bounds from the largest."""
        kernel = point.weighted_kernel
        if kernel is None:
            return Measured({})
        newton = kernel.newton(point.damping)
        largest = newton.largest
        if newton.eigenvalues is None:
            # One eigenvalue is as large, and no other is larger or negative.
            low, high = (largest.value + sign * largest.error_bound for sign in (-1, 1))
            K = point.kernel_products
            size = math.inf if K is None else min(K.J.shape)
            return Measured(self._numbers(math.nan, max(0.0, low), size * high))
        value = float(newton.eigenvalues.sum())
        # An error of the kernel's eigenvalues moves each share by no more than this.
        ends = (newton.smallest, newton.largest)
        error = len(newton.eigenvalues) * max(end.error_bound for end in ends)
        return Measured(self._numbers(value, max(0.0, value - error), value + error))

    def unknown(self) -> dict[str, float]:
        """NaN between zero and infinity."""
        return self._numbers(math.nan, 0.0, math.inf)

    @staticmethod
    def _numbers(value: float, low: float, high: float) -> dict[str, float]:
        return {
            "effective_dimension/value": value,
            "effective_dimension/low": low,
            "effective_dimension/high": high,
        }
