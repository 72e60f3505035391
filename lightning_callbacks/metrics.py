"""Curvature as torchmetrics: accumulated over batches, synchronised over ranks, and plotted.

The Hessian of a loss that is a mean over batches is the mean of the batches' Hessians, but its
eigenvalues are no mean of theirs. So it is the matrices that are added up, P x P in double
precision, and `compute` diagonalises the sum. That takes P**2 numbers: beyond `max_parameters` use
`CurvatureMonitor` with a DataLoader as its probe, or `torch_newton.extreme_eigenvalues`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from torch_newton import hessian
from torch_newton.kernels.rows import jacobian_of
from torch_newton.linalg.eigenvalue_signs import dense_symmetric

from .mean_matrix import MAX_PARAMETERS, MeanMatrix


class HessianSpectrum(MeanMatrix):
    r"""All eigenvalues of the Hessian of a mean loss, ascending, float64.

    >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> metric = HessianSpectrum()
    >>> metric.update((theta[0] ** 2 - theta[1] ** 2) / 2, [theta])
    >>> metric.update((theta[0] ** 2 + 3 * theta[1] ** 2) / 2, [theta])
    >>> metric.compute()
    tensor([1., 1.], dtype=torch.float64)

    Args:
        max_parameters: the largest P; the state has P**2 entries.
        kwargs: those of `torchmetrics.Metric`.
    """

    def update(self, loss: Tensor, params: Sequence[Tensor], weight: float = 1.0) -> None:
        """Add a batch.

        Args:
            loss: of the batch, a scalar with its graph.
            params: the parameters, the same at each update.
            weight: of the batch in the mean; its number of samples where batches differ.

        Raises:
            ValueError: too many parameters, others than before, or a weight that is not positive.
        """
        params = list(params)
        with torch.enable_grad():
            self.add(lambda: dense_symmetric(hessian(loss, params)), params, weight)

    def compute(self) -> Tensor:
        """The P eigenvalues."""
        values: Tensor = torch.linalg.eigvalsh(self.mean())
        return values

    def plot(self, val: Tensor | None = None, ax: Any = None) -> tuple[Any, Any]:
        """The eigenvalues by rank; returns a figure and its axes. Needs Matplotlib."""
        return _plot("hessian", self.compute() if val is None else val, ax)


class TangentKernelSpectrum(MeanMatrix):
    r"""The nonzero eigenvalues of the NTK of all samples seen, ascending, float64.

    J J^T over the rows of all batches has the nonzero eigenvalues of :math:`J^T J`, which is a sum
    over batches; so min(P, R) eigenvalues come out, whatever the number R of rows.

    Args:
        max_parameters: the largest P; the state has P**2 entries.
        kwargs: those of `torchmetrics.Metric`.
    """

    rows: Tensor

    def __init__(self, max_parameters: int = MAX_PARAMETERS, **kwargs: Any) -> None:
        super().__init__(max_parameters, **kwargs)
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, params: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            outputs: of the network on the batch, with their graph.
            params: the parameters, the same at each update.

        Raises:
            ValueError: too many parameters, or others than before.
        """
        params = list(params)

        def form() -> Tensor:
            J = jacobian_of(outputs, params).dense().double()
            return J.T @ J

        with torch.enable_grad():
            self.add(form, params, 1.0)
        self.rows = self.rows + outputs.numel()

    def compute(self) -> Tensor:
        """The min(P, R) largest eigenvalues."""
        values: Tensor = torch.linalg.eigvalsh(self.matrix)
        return values[-min(len(values), int(self.rows)) :]

    def plot(self, val: Tensor | None = None, ax: Any = None) -> tuple[Any, Any]:
        """The eigenvalues by rank; returns a figure and its axes. Needs Matplotlib."""
        return _plot("ntk", self.compute() if val is None else val, ax)


class Definiteness(HessianSpectrum):
    r"""Whether :math:`H + \lambda I` is positive definite, H being the Hessian of a mean loss.

    Args:
        damping: lambda, absolute.
        max_parameters: the largest P; the state has P**2 entries.
        kwargs: those of `torchmetrics.Metric`.
    """

    def __init__(
        self, damping: float = 0.0, max_parameters: int = MAX_PARAMETERS, **kwargs: Any
    ) -> None:
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(f"damping must be a finite number >= 0, not {damping}")
        super().__init__(max_parameters, **kwargs)
        self.damping = damping

    def margin(self) -> tuple[float, float]:
        """The smallest eigenvalue of H + lambda I, and how far rounding may have moved it."""
        values = super().compute()
        return float(values[0]) + self.damping, float(self.rounding / self.weight)

    def compute(self) -> Tensor:
        """1 where it is positive definite, 0 where it is not, NaN where rounding decides."""
        margin, rounding = self.margin()
        if math.isnan(margin) or abs(margin) <= rounding:
            return torch.tensor(math.nan, dtype=torch.float64)
        return torch.tensor(float(margin > 0), dtype=torch.float64)

    def plot(self, val: Tensor | None = None, ax: Any = None) -> tuple[Any, Any]:
        """The eigenvalues of H + lambda I by rank, or `val` of them. Needs Matplotlib."""
        shifted = super().compute() + self.damping if val is None else val
        return _plot("hessian", shifted, ax, "Hessian + damping")


def _plot(name: str, values: Tensor, ax: Any, title: str | None = None) -> tuple[Any, Any]:
    try:
        figures = import_module("lightning_callbacks.figures")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot() needs Matplotlib: pip install matplotlib") from error
    if ax is not None:
        figures.eigenvalue_axes(ax, values, title or figures.LABELS[name])
        return ax.figure, ax
    figure = figures.eigenvalue_figure({title or name: values})
    return figure, figure.axes[0]
