"""Networks that are periodic, or satisfy conditions, by construction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Periodic(nn.Module):
    """The net of (t, sin(w x), cos(w x)), 2 pi / w-periodic in x, at the points (t, x)."""

    def __init__(self, net: nn.Module, frequency: float) -> None:
        super().__init__()
        self.net, self.frequency = net, frequency

    def forward(self, tx: Tensor) -> Tensor:
        t, x = tx[..., 0:1], self.frequency * tx[..., 1:2]
        return self.net(torch.cat([t, torch.sin(x), torch.cos(x)], dim=-1))


class PeriodicInAll(nn.Module):
    """The net of (sin(w x_i), cos(w x_i)), periodic in every coordinate."""

    def __init__(self, net: nn.Module, frequency: float) -> None:
        super().__init__()
        self.net, self.frequency = net, frequency

    def forward(self, x: Tensor) -> Tensor:
        angle = self.frequency * x
        return self.net(torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1))


class Constrained(nn.Module):
    """known(x) + factor(x) net(x): as known where the factor vanishes, whatever the net is."""

    def __init__(
        self,
        net: nn.Module,
        known: Callable[[Tensor], Tensor],
        factor: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.net, self.known, self.factor = net, known, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.known(x) + self.factor(x) * self.net(x)
