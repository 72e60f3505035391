r"""The curvature of a batch's loss along a direction, :math:`v^T J^T Q J v`, by one evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autodiff.finite_difference import difference_length
from ..closure.evaluator import Evaluator
from ..graph.output_change import OutputChange
from ..linalg.flat import norm


@dataclass(frozen=True)
class CurvatureAlong:
    """From how far a short move along a direction moves the outputs.

    It is a one-sided difference: in single precision it errs by some hundredths, and a step length
    needs no more. No second derivative is taken, which fused and compiled operations lack.

    Attributes:
        evaluator: where the loss is evaluated.
        change: the outputs where the step begins.
        weight: what a change of the loss counts in the function that is minimised.
    """

    evaluator: Evaluator
    change: OutputChange
    weight: float

    def __call__(self, direction: Tensor) -> float | None:
        """The mean over processes; None where the outputs elsewhere cannot be compared."""
        length = norm(direction)
        if not 0 < length < math.inf:
            return None
        # The length at which rounding and truncation balance grows with the root of the third
        # order of what rounds: bfloat16 would otherwise see its own noise for curvature.
        coarser = (self.change.epsilon / torch.finfo(direction.dtype).eps) ** (1 / 3)
        h = coarser * difference_length(self.evaluator.params) / length
        _, graph = self.evaluator.loss_at(h * direction)
        squared = None if graph is None else self.change.squared(graph)
        found = math.nan if squared is None else self.weight * squared / h**2
        mean = self.evaluator.ranks.agree(found, direction)
        return mean if math.isfinite(mean) else None
