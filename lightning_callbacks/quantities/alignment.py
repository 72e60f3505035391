"""Whether the terms of a loss pull in the same direction."""

from __future__ import annotations

import math
from itertools import combinations

import torch

from ..point import Point
from .base import Measured, Need, Numbers, Quantity
from .terms import several, slope_in_parameters


class TermAlignment(Quantity):
    r"""The cosines between the gradients of the terms of a loss.

    :math:`\cos_{jk} = g_j^T g_k / |g_j| |g_k|` with :math:`g_k` the gradient of term k in the
    parameters, weighted as in the loss: below zero, a step that lowers the one raises the other
    (Yu, Kumar, Gupta, Levine, Hausman, Finn 2020, *Gradient surgery for multi-task learning*;
    for physics-informed losses Wang, Bhartari, Li, Perdikaris 2025, *Gradient alignment in
    physics-informed neural networks*). Costs one backward pass for each term, and a vector of P
    entries each. Logged for losses of two to eight terms; numbered as in `ResidualNumbers`.
    """

    name = "alignment"
    light = True
    needs: frozenset[Need] = frozenset({Need.GRADIENT})
    documentation: tuple[tuple[str, str], ...] = (
        ("alignment/lowest", "smallest cosine between gradients of two terms of the loss"),
        ("alignment/<j>_<k>", "cosine between those of terms j and k"),
    )

    def compute(self, point: Point) -> Measured:
        """The cosines; none of a loss of one term."""
        terms = several(point)
        if not terms:
            return Measured({})
        point.allowance.require(len(terms) * point.allowance.estimate("gradient"))
        gradients = [slope_in_parameters(term, point.params).double() for term in terms]
        units = [g / torch.linalg.vector_norm(g) for g in gradients]  # NaN where it is zero
        cosines = {
            f"alignment/{j}_{k}": float(units[j] @ units[k])
            for j, k in combinations(range(len(units)), 2)
        }
        known = [c for c in cosines.values() if not math.isnan(c)]
        return Measured({"alignment/lowest": min(known, default=math.nan), **cosines})

    def unknown(self) -> Numbers:
        """Nothing: of how many terms is not known."""
        return {}
