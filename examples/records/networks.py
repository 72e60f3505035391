"""The networks of the sources: plain ones, periodic ones, and those that satisfy conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with tanh between them, as PyTorch initializes them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def glorot(widths: Sequence[int]) -> nn.Sequential:
    """The same from Glorot's normal distribution and zero biases, as JAX and DeepXDE start."""
    net = mlp(widths)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


class Sine(nn.Module):
    """x -> sin(frequency x)."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


def siren(widths: Sequence[int], frequency: float = 1.0) -> nn.Sequential:
    """Sine layers, sin(frequency (W x + b)), initialized as Sitzmann et al. 2020, section 3.2.

    First layer uniform in +-1/n, later ones in +-sqrt(6/n) / frequency, n inputs.
    """
    layers: list[nn.Module] = []
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if k == 0 else math.sqrt(6 / inputs) / frequency
        nn.init.uniform_(linear.weight, -bound, bound)
        layers += [linear, Sine(frequency)]
    return nn.Sequential(*layers[:-1])


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
