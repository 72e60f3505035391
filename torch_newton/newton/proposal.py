"""What a quadratic model proposes to try."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..linalg.change_of_variables import ChangeOfVariables
from ..linalg.solution import Solution, Stop
from ..preconditioners.function_space import DampedInverse
from ..preconditioners.low_rank import LowRankInverse
from ..preconditioners.weighted_inverse import WeightedInverse
from ..step import Path

Inverse = DampedInverse | WeightedInverse | LowRankInverse
"""Of a Gauss-Newton matrix plus lambda I."""


@dataclass(frozen=True)
class Proposal:
    """A solution d of (A + lambda I) d = -g.

    Attributes:
        directions: d, P entries; none where the first direction tried had no positive curvature,
            and two where the solver was stopped by negative curvature and has the Gauss-Newton
            step to offer beside its iterate.
        curvatures: d^T A d of each, A without lambda.
        stop: why the solver stopped.
        iterations: what it took.
        curvature_min: smallest p^T A p / p^T p over the solver's directions p, with lambda;
            infinite where there was none.
        negative_curvature: whether it saw that A + lambda I is not positive definite.
        path: how it was solved.
        inverse: that of the Gauss-Newton matrix plus lambda I, where it was used.
    """

    directions: list[Tensor]
    curvatures: list[float]
    stop: Stop
    iterations: int
    curvature_min: float
    negative_curvature: bool
    path: Path
    inverse: Inverse | None = None

    @property
    def rank(self) -> int:
        """Of the factor that preconditioned, zero where there was none."""
        return self.inverse.rank if isinstance(self.inverse, LowRankInverse) else 0

    @property
    def effective_dimension(self) -> float:
        """tr K (K + lambda I)^{-1} of that factor, zero where there was none."""
        found = self.inverse
        return found.effective_dimension if isinstance(found, LowRankInverse) else 0.0


def proposed(
    variables: ChangeOfVariables,
    directions: list[Tensor],
    curvatures: list[float],
    solution: Solution,
    negative: bool,
    path: Path,
    inverse: Inverse | None = None,
) -> Proposal:
    """What a solver found in some variables, in the parameters themselves."""
    return Proposal(
        [variables.to_theta(d) for d in directions],
        curvatures,
        solution.stop,
        solution.iterations,
        solution.curvature_min,
        negative,
        path,
        inverse,
    )


def direct(
    d: Tensor,
    image: Tensor,
    path: Path,
    inverse: DampedInverse | WeightedInverse | None = None,
    decayed: float = 0.0,
) -> Proposal:
    """A Gauss-Newton step d, given J d and d^T W d, that a factorisation gave."""
    curvatures = [float(image @ image) + decayed]
    return Proposal([d], curvatures, Stop.CONVERGED, 0, math.inf, False, path, inverse)


def curvature_of(solution: Solution, damping: float) -> float:
    """d^T A d of a solution d of (A + lambda I) d = -g."""
    return float(solution.x @ (solution.Ax - damping * solution.x))
