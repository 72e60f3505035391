"""What an exact step is reckoned to cost, in gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_newton import RegNewton
from torch_newton.newton import iteration


def cost(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> float:
    """Of the first step of a regression on 256 points."""
    counted, original = list[float](), iteration.cost_in_gradients

    def listen(*args: Any) -> float:
        counted.append(original(*args))
        return counted[-1]

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh())
    net.append(nn.Linear(256, 1)).to(dtype)
    x = torch.randn(256, 32, dtype=dtype)
    optimizer = RegNewton(net.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), x[:, :1].sin())
        loss.backward()
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(iteration, "cost_in_gradients", listen)
        optimizer.step(closure)
    return counted[0]


def test_a_gradient_in_double_precision_takes_as_much_longer_as_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    single, double = (cost(monkeypatch, dtype) for dtype in (torch.float32, torch.float64))
    assert double < 0.85 * single
