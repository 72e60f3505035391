"""Which rows the factor of low rank of the next step chooses from first."""

from __future__ import annotations

from ..curvature.linearization import Linearization
from .quadratic_model import QuadraticModel


def rows_to_propose(model: QuadraticModel, at: Linearization) -> tuple[int, ...]:
    """The pivots that the model's factor has, or else that of the rows that precondition it.

    Those of a step with lambda D are of another kernel, with the same rows: they serve either.
    """
    if model.pivots or at.low_rank is None:
        return model.pivots
    return at.low_rank.kept
