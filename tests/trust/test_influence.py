"""Parameters without influence stay where they are under scaled damping.

A bias in front of a normalisation, and the bias of attention's keys, change nothing but rounding.
What users watch is watched here: evaluation mode and the size of parameters, not only the loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import closure_of
from torch_newton import RegNewton

STEPS = 30


class Attention(nn.Module):
    """A transformer's encoder layer between two linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 16), nn.Linear(16, 1)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.out(self.layer(self.into(x)).mean(1))
        return outputs


def convolutions(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), norm(6), nn.Tanh(), nn.Conv2d(6, 6, 3), norm(6), nn.Tanh(),
        nn.Flatten(), nn.Linear(96, 1),
    )  # fmt: skip


def dense(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 16), norm(16), nn.Tanh(), nn.Linear(16, 16), norm(16), nn.Tanh(),
        nn.Linear(16, 1),
    )  # fmt: skip


def images(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x, (3 * x[:, :, 2:5, 2:5].mean((1, 2, 3))).sin()[:, None] + x[:, 0, 0, :1]


def rows(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
    return x, torch.sin(2 * x[:, :1]) * x[:, 1:2] + x[:, 2:3]


def sequences(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 5, 4, generator=torch.Generator().manual_seed(seed))
    return x, 0.3 * x.sin().sum((1, 2))[:, None]


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, Tensor]]]] = {
    "dense, batch norm": (lambda: dense(nn.BatchNorm1d), rows),
    "convolutions, batch norm": (lambda: convolutions(nn.BatchNorm2d), images),
    "convolutions, instance norm": (lambda: convolutions(nn.InstanceNorm2d), images),
    "attention": (Attention, sequences),
}


@pytest.mark.parametrize("scaling", ["auto", "jacobian"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_parameters_without_influence_stay(name: str, dtype: torch.dtype, scaling: str) -> None:
    make, data = CASES[name]
    torch.manual_seed(0)
    model = make().to(dtype)
    x, y = (t.to(dtype) for t in data(0))
    plain = copy.deepcopy(model)
    train(model, x, y, scaling)
    train(plain, x, y, None)
    # Trained as far as without scaling, but for the last digits that the dtype has.
    floor = 1e-20 if dtype == torch.float64 else 1e-9
    assert loss(model, x, y) <= 100 * loss(plain, x, y) + floor
    assert max(float(p.detach().abs().max()) for p in model.parameters()) < 100
    model.eval()
    plain.eval()
    assert loss(model, x, y) <= 10 * loss(plain, x, y) + floor


def loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x) - y).square().mean().detach())


def train(model: nn.Module, x: Tensor, y: Tensor, scaling: str | None) -> None:
    optimizer = RegNewton(model.parameters(), scaling=scaling)
    for _ in range(STEPS):
        optimizer.step(closure_of(optimizer, lambda: (model(x) - y).square().mean()))
