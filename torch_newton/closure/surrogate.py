r"""The function that a step minimises, where ``.grad`` is not the gradient of the closure's loss.

A step is solved with the gradient :math:`g_t` that the closure leaves in ``.grad``. Where that was
changed, as by clipping, the losses that a step compares are those of the function that has it,

.. math:: F(\theta + d) = L(\theta + d) + (g_t - g)^T d.

Where it was accumulated over k micro-batches, of which the closure evaluates the last, a change of
the loss counts k times, and so does its curvature,

.. math:: F(\theta + d) = L(\theta) + k\,(L(\theta + d) - L(\theta)).

The ratio test then asks of a step that it lowers the last micro-batch, too, the only one that can
be evaluated. Without the factor k a small network of 2, 4 or 8 micro-batches ends at losses of 1e10
and beyond after sixty steps, or overflows; with it, at 3e-4 to 4e-2.

A weight decay is added to either (`weight_decay`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..linalg.operators import LinearOperator
from ..preconditioners.function_space import FunctionSpace
from ..preconditioners.low_rank import LowRankSpace
from .weight_decay import WeightDecay


@dataclass(frozen=True)
class Surrogate:
    """F in terms of L, the mean over the processes of the losses that they evaluate.

    Attributes:
        start: L at the starting point.
        weight: k, one where nothing was accumulated before the closure ran.
        tilt: g_t - g, P entries; None where ``.grad`` is the gradient of L.
        decay: the term that is added; None where there is none.
    """

    start: float
    weight: float = 1.0
    tilt: Tensor | None = None
    decay: WeightDecay | None = None

    @property
    def accumulated(self) -> bool:
        """Whether gradients were accumulated, or the closure changed them."""
        return self.weight != 1 or self.tilt is not None

    def loss(self, value: float, direction: Tensor) -> float:
        """F at the starting point plus `direction`, given L there."""
        decayed = 0.0 if self.decay is None else self.decay.loss(direction)
        return self._of_closure(value, direction) + decayed

    def _of_closure(self, value: float, direction: Tensor) -> float:
        """F without the weight decay."""
        if self.weight != 1:
            return self.start + self.weight * (value - self.start)
        return value if self.tilt is None else value + float(self.tilt.to(direction) @ direction)

    def own(self, value: float, direction: Tensor) -> float:
        """L at the starting point plus `direction`, given F there."""
        if self.decay is not None:
            value -= self.decay.loss(direction)
        if self.weight != 1:
            return self.start + (value - self.start) / self.weight
        return value if self.tilt is None else value - float(self.tilt.to(direction) @ direction)

    def curvature(self, A: LinearOperator) -> LinearOperator:
        """The curvature of F without the weight decay, given that of L."""
        return A if self.weight == 1 else self.weight * A

    def space(self, space: FunctionSpace | None) -> FunctionSpace | None:
        """The function space of F, given that of L."""
        if space is None or self.weight == 1:
            return space
        return space.times(math.sqrt(self.weight))

    def low_rank(self, rows: LowRankSpace) -> LowRankSpace:
        """The rows of F, given those of L."""
        return rows if self.weight == 1 else rows.times(math.sqrt(self.weight))
