"""Closures that do unusual things, which a step does not mind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import mlp, randn
from torch_newton import RegNewton

pytestmark = pytest.mark.usefixtures("float64")

OPTIONS: list[dict[str, Any]] = [
    {},
    {"curvature": "hessian"},
    {"damping": 10.0},
    {"preconditioner": None},
    {"hvp": "finite_difference", "curvature": "hessian"},
]
Case = tuple[list[nn.Parameter], Callable[[], Tensor]]


def complex_at_an_odd_offset() -> Case:
    """Pairs of real numbers as complex ones, behind a parameter with an odd number of entries."""
    bias, weight, x = nn.Parameter(randn(3)), nn.Parameter(randn(4, 2, seed=1)), randn(10, 4)
    complex_ = lambda: torch.view_as_complex(weight)  # noqa: E731
    return [bias, weight], lambda: ((x * complex_()).abs().sum(1) + bias.sum()).square().mean()


def fourier_layer() -> Case:
    last, weight, x = nn.Linear(16, 1), nn.Parameter(randn(9, 2)), randn(10, 16, seed=1)

    def loss() -> Tensor:
        h = torch.fft.rfft(x) * torch.view_as_complex(weight)
        return (last(torch.fft.irfft(h, n=16).tanh()) - 1).square().mean()

    return [*last.parameters(), weight], loss


def clamped_without_effect() -> Case:
    model, x = mlp(2, 8, 1), randn(20, 2)

    def loss() -> Tensor:
        with torch.no_grad():
            for param in model.parameters():
                param.clamp_(-50, 50)
        return (model(x) - 1).square().mean()

    return list(model.parameters()), loss


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("make", [complex_at_an_odd_offset, fourier_layer, clamped_without_effect])
def test_it_trains(make: Callable[[], Case], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    params, loss = make()
    optimizer = RegNewton(params, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        return found

    first = loss().item()
    for _ in range(5):
        optimizer.step(closure)
    assert loss().item() < 0.9 * first
