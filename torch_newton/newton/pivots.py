"""Rows from which the next step's factor of low rank is begun."""

from __future__ import annotations

from ..curvature.linearization import Linearization
from .quadratic_model import QuadraticModel


def pivots(model: QuadraticModel, at: Linearization) -> tuple[int, ...]:
    """Those of the model's factor, or of the one that preconditions; none where there is none."""
    if model.pivots or at.low_rank is None:
        return model.pivots
    return at.low_rank.kept
