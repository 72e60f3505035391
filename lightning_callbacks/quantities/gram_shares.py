"""Which term of a loss the tangent kernel is made of."""

from __future__ import annotations

import math

from torch_newton import trace
from torch_newton.graph.residuals import Residuals

from ..point import Point
from .base import Measured, Need, Numbers, Quantity
from .terms import several

PRODUCTS = 12
"""Products with the Gauss-Newton matrix of a term: twice the least of which `trace` knows its
error. Each is about two gradients."""


class GramShares(Quantity):
    r"""The share of each term of a loss in the trace of its weighted kernel.

    :math:`\mathrm{tr}(J_k^T Q_k J_k) / \sum_j \mathrm{tr}(J_j^T Q_j J_j)`, which is how fast
    gradient flow reduces term k at first, compared with the others. A share near zero is a term
    that is hardly trained: raise its weight (Wang, Yu, Perdikaris 2022, *When and why PINNs fail
    to train: a neural tangent kernel perspective*, whose weights are the inverse shares). The
    traces are estimated by `trace`, from 12 products a term, about 24 gradients; up to 12
    parameters they are exact. Logged for losses of two to eight terms, numbered as in
    `ResidualNumbers`.
    """

    name = "gram_shares"
    needs: frozenset[Need] = frozenset({Need.GRADIENT})
    documentation: tuple[tuple[str, str], ...] = (
        ("gram_share/<k>", "share of term k in tr(J'QJ), where there are 2 to 8"),
        ("gram_share/<k>_error", "standard error of it"),
    )

    def compute(self, point: Point) -> Measured:
        """The shares; none of a loss of one term."""
        terms = several(point)
        if not terms:
            return Measured({})
        point.allowance.require(2 * PRODUCTS * len(terms) * point.allowance.estimate("gradient"))
        found = [
            trace(Residuals([term], []).gauss_newton(point.params), products=PRODUCTS)
            for term in terms
        ]
        total = sum(part.value for part in found)
        if total <= 0:
            return Measured({})
        numbers: Numbers = {}
        for k, part in enumerate(found):
            share = part.value / total
            own = part.standard_error
            others = [other.standard_error for j, other in enumerate(found) if j != k]
            # The derivative of a_k / sum a_j is (1 - share) / sum in a_k, - share / sum in others.
            error = math.hypot((1 - share) * own, *(share * e for e in others)) / total
            numbers |= {f"gram_share/{k}": share, f"gram_share/{k}_error": error}
        return Measured(numbers)

    def unknown(self) -> Numbers:
        """Nothing: of how many terms is not known."""
        return {}
