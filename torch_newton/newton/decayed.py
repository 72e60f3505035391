"""What a weight decay adds to the system of a step; nothing where there is none."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..closure.weight_decay import WeightDecay
from ..linalg.operators import LinearOperator
from ..preconditioners.function_space import DampedInverse, FunctionSpace
from ..preconditioners.scaling import Scaling
from ..preconditioners.weighted_inverse import WeightedInverse, weighted_inverse


@dataclass(frozen=True)
class Decayed:
    """W in a system (A + W + lambda I) d = -g.

    Attributes:
        term: of which W is the second derivative; None for zero.
    """

    term: WeightDecay | None

    @property
    def least(self) -> float:
        """The smallest entry of W."""
        return 0.0 if self.term is None else min(self.term.weights)

    @property
    def mean(self) -> float:
        """The mean of W's diagonal, for preconditioners that add a multiple of I."""
        return 0.0 if self.term is None else float(self.term.diagonal.mean())

    def curvature(self, A: LinearOperator) -> LinearOperator:
        """A + W."""
        return A if self.term is None else self.term.curvature(A)

    def along(self, d: Tensor) -> float:
        """d^T W d."""
        return 0.0 if self.term is None else self.term.along(d)

    def inverse(
        self, space: FunctionSpace, damping: float, scaling: Scaling | None
    ) -> tuple[DampedInverse | WeightedInverse, bool]:
        """That of the Gauss-Newton matrix plus W and lambda; and whether it is exact."""
        if self.term is None:
            return space.at(damping), True
        return weighted_inverse(space, damping, self.term.weights, scaling)
