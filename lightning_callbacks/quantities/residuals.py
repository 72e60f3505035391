"""How large the residuals of a loss are where they are largest, term by term."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_newton.graph.terms import Term

from ..point import Point
from .base import Measured, Need, Numbers, Quantity
from .terms import several, terms_of


class ResidualNumbers(Quantity):
    r"""The largest and the 99th-percentile absolute residual, of all and of each term of the loss.

    A mean of squares hides where an equation fails: these say how badly. A term that is a sum of
    squares :math:`q_i r_i^2 / 2` has the residuals :math:`r_i`, whatever its weights. Of any other
    convex term with M samples they are :math:`M \, \partial L/\partial z`: for the mean
    cross-entropy the predicted probabilities less the labels. The percentile is that of the sorted
    absolute values, interpolated. Read off the graph of the loss, without a backward pass.

    With several terms (two to eight) each has its numbers besides, numbered in the order in which
    they are added up in the loss.
    """

    name = "residuals"
    light = True
    needs: frozenset[Need] = frozenset({Need.GRADIENT})
    documentation: tuple[tuple[str, str], ...] = (
        ("residual/largest", "largest absolute residual of the loss"),
        ("residual/percentile_99", "99 % of the absolute residuals are at most this"),
        ("residual/<k>/largest", "the same of term k, where there are 2 to 8"),
        ("residual/<k>/percentile_99", "the same of term k"),
    )

    def compute(self, point: Point) -> Measured:
        """The numbers; none where the loss shows no outputs."""
        terms = terms_of(point)
        if not terms:
            return Measured({})
        sizes = [absolute_residuals(term) for term in terms]
        numbers = _ends("residual", torch.cat(sizes))
        if several(point):
            for k, size in enumerate(sizes):
                numbers |= _ends(f"residual/{k}", size)
        return Measured(numbers)

    def unknown(self) -> Numbers:
        """NaN; how many terms there are is not known."""
        return {"residual/largest": math.nan, "residual/percentile_99": math.nan}


def absolute_residuals(term: Term) -> Tensor:
    """The absolute residuals of a term, one for each entry of its z, float64."""
    slope = term.gradient.detach().double()
    if term.curvature is not None:
        q = term.curvature.detach().double().expand_as(slope)
        # Of a square that does not count in the loss, q = 0, nothing is known.
        return torch.where(q > 0, slope / q, torch.zeros_like(slope)).abs().reshape(-1)
    samples = slope.shape[0] if slope.ndim else 1
    return (samples * slope).abs().reshape(-1)


def _ends(key: str, sizes: Tensor) -> Numbers:
    rank = 0.99 * (len(sizes) - 1)  # torch.quantile takes 16 million numbers at most
    ordered = sizes.sort().values
    below, above = float(ordered[math.floor(rank)]), float(ordered[math.ceil(rank)])
    between = below + (rank - math.floor(rank)) * (above - below)
    return {f"{key}/largest": float(ordered[-1]), f"{key}/percentile_99": between}
