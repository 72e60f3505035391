"""The small networks that records and benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Sine(nn.Module):
    """x -> sin(frequency x), with the frequency of Sitzmann et al. 2020 (SIREN), section 3.2."""

    def __init__(self, frequency: float = 1.0) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A plain fully connected net with PyTorch's default initialization."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def glorot(widths: Sequence[int]) -> nn.Sequential:
    """A tanh net with Glorot normal weights and zero biases, as JAX and DeepXDE start."""
    net = mlp(widths)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def siren(widths: Sequence[int], first_frequency: float = 30.0) -> nn.Sequential:
    """Sine network initialized as Sitzmann et al. 2020, arXiv 2006.09661, section 3.2.

    First layer U(-1/n, 1/n) and sin(w0 z); later layers U(+-sqrt(6/n)) and sin(z).
    """
    net = mlp(widths, Sine)
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linears):
        bound = 1 / layer.in_features if i == 0 else (6 / layer.in_features) ** 0.5
        nn.init.uniform_(layer.weight, -bound, bound)
    net[1] = Sine(first_frequency)
    return net
