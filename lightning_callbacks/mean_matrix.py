"""A torchmetric that adds up matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

MAX_PARAMETERS = 2000
"""The largest P by default: its state takes 32 MB, and `compute` 0.3 s on one core."""


class MeanMatrix(Metric):
    """A weighted mean of P x P matrices over batches and ranks, in double precision.

    Args:
        max_parameters: the largest P; the state has P**2 entries.
        kwargs: those of `torchmetrics.Metric`.

    Attributes:
        matrix: the weighted sum so far.
        weight: the sum of the weights.
        rounding: the weighted sum of the errors that rounding may have left in each matrix.
    """

    is_differentiable: bool = False
    full_state_update: bool = False
    matrix: Tensor
    weight: Tensor
    rounding: Tensor

    def __init__(self, max_parameters: int = MAX_PARAMETERS, **kwargs: Any) -> None:
        if max_parameters < 1:
            raise ValueError(f"max_parameters must be positive, not {max_parameters}")
        super().__init__(**kwargs)
        self.max_parameters = max_parameters
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("matrix", torch.zeros(1, 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", zero.clone(), dist_reduce_fx="sum")
        self.add_state("rounding", zero.clone(), dist_reduce_fx="sum")

    def add(self, form: Callable[[], Tensor], params: Sequence[Tensor], weight: float) -> None:
        """Add a matrix.

        Args:
            form: returns it; called where it is small enough.
            params: the P parameters, the same at each call.
            weight: in the mean, positive.

        Raises:
            ValueError: too many parameters, others than before, or a weight that is not positive.
        """
        size = sum(param.numel() for param in params)
        if size > self.max_parameters:
            raise ValueError(
                f"{type(self).__name__} adds up matrices of {size} x {size}, more than its "
                f"max_parameters={self.max_parameters} allows: raise it, or use CurvatureMonitor "
                "with a DataLoader as probe, which needs products only"
            )
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weight must be positive, not {weight}")
        if self.weight > 0 and len(self.matrix) != size:
            raise ValueError(
                f"the matrices added so far are {len(self.matrix)} x {len(self.matrix)}, and this "
                f"one is {size} x {size}: reset() the metric, or pass the same parameters"
            )
        matrix = form().detach().to(self.matrix.device, torch.float64)
        known = self.matrix if len(self.matrix) == size and self.weight > 0 else 0.0
        self.matrix = known + weight * matrix
        self.weight = self.weight + weight
        # P epsilon |A| bounds how far rounding in A's entries moves an eigenvalue. The sum of these
        # is kept, for matrices that cancel leave the rounding errors of each in their sum.
        epsilon = torch.finfo(params[0].dtype).eps
        size_of_errors = size * epsilon * torch.linalg.matrix_norm(matrix)
        self.rounding = self.rounding + weight * size_of_errors

    def mean(self) -> Tensor:
        """The weighted mean, P x P."""
        return self.matrix / self.weight
