"""Least-squares fits: the one way in which regression problems become instances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..problem import Instance, Rows


class ScaledResidual(nn.Module):
    """(net(x) - y) * scale, row by row."""

    def __init__(self, net: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * (self.net(x) - y)


def fit(net: nn.Module, x: Tensor, y: Tensor) -> Instance:
    """Loss = mean((net(x) - y)^2)."""
    return Instance(
        params=list(net.parameters()),
        loss=lambda: nn.functional.mse_loss(net(x), y),
        rows=Rows(ScaledResidual(net), [x, y]),
    )


def standardize(a: Tensor) -> Tensor:
    """Zero mean and unit variance per column, so that predicting the mean costs a loss of 1."""
    return (a - a.mean(0)) / a.std(0, correction=0).clamp_min(torch.finfo(a.dtype).tiny)
