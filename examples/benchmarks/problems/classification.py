"""Classification with cross-entropy: two spirals (full batch) and digits (mini-batch)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...networks import mlp
from ..problem import Instance, NotApplicable, Problem, Rows

BATCH = 128


class RootCrossEntropy(nn.Module):
    """Rows sqrt(cross-entropy of row m): the form in which least-squares peers take it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.net(x), y, reduction="none").sqrt()


def spirals() -> Instance:
    """Two spirals of 97 points, radius 6.5 (104 - i) / 104, angle i pi / 16, scaled by 3 / 6.5;
    2-32-32-2 tanh.

    Lang and Witbrock, Proc. 1988 Connectionist Models Summer School, 52-59.
    """
    i = torch.arange(97.0)
    radius, angle = (104 - i) / 104, i * math.pi / 16
    arm = torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1)
    x = 3 * torch.cat([arm, -arm])
    y = torch.arange(2).repeat_interleave(len(arm))
    net = mlp([2, 32, 32, 2])
    return Instance(
        params=list(net.parameters()),
        loss=lambda: nn.functional.cross_entropy(net(x), y),
        rows=Rows(RootCrossEntropy(net), [x, y]),
    )


def digits() -> Instance:
    """scikit-learn's 1,797 digits, 64-32-10 tanh, mini-batches of 128; loss over all of them."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NotApplicable("scikit-learn is not installed") from error
    images, labels = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images) / 16, torch.as_tensor(labels)
    net = mlp([64, 32, 10])
    # A generator of its own: what a contender draws must not change its batches.
    generator = torch.Generator().manual_seed(torch.initial_seed())
    batch = [x[:BATCH], y[:BATCH]]

    def next_batch() -> None:
        chosen = torch.randperm(len(x), generator=generator)[:BATCH]
        batch[:] = x[chosen], y[chosen]

    next_batch()
    return Instance(
        params=list(net.parameters()),
        loss=lambda: nn.functional.cross_entropy(net(batch[0]), batch[1]),
        rows=Rows(RootCrossEntropy(net), batch),
        next_batch=next_batch,
        full_loss=lambda: nn.functional.cross_entropy(net(x), y),
    )


PROBLEMS = [
    Problem(
        "two-spirals",
        "classification",
        lambda seed: spirals(),
        targets=(3e-1, 1e-1, 1e-2, 1e-4, 1e-6),
        target=1e-2,
        sizes=frozenset({"short", "standard", "full"}),
    ),
    Problem(
        "digits",
        "classification",
        lambda seed: digits(),
        targets=(1.0, 3e-1, 1e-1, 3e-2, 1e-2),
        target=1e-1,
    ),
]
