"""Closures that do more than compute a loss, single precision and autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from tests.helpers import mlp, randn
from tests.trust.architectures.build import fit, mean_square, trained
from tests.trust.architectures.case import Case, Problem

Body = Callable[[torch.optim.Optimizer, nn.Module, Tensor, Tensor], Any]


def closing(body: Body, dtype: torch.dtype = torch.float64) -> Problem:
    """The mean square of a network, by a closure of another kind."""
    net, x, y = (
        mlp(3, 4, 1).to(dtype),
        randn(10, 3, seed=2).to(dtype),
        randn(10, 1, seed=3).to(dtype),
    )

    def made(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
        return lambda: body(optimizer, net, x, y)

    criterion = mean_square(y)
    return Problem(trained(net), lambda: criterion(net(x)), net, lambda: net(x), criterion, made)


def several(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One backward call for each half of the loss, and their sum returned."""
    optimizer.zero_grad()
    a, b = ((net(u) - v).square().sum() / 10 for u, v in ((x[:5], y[:5]), (x[5:], y[5:])))
    a.backward()
    b.backward()
    return a + b


def accumulated(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Micro-batches, with the sum returned as a number."""
    optimizer.zero_grad()
    total = 0.0
    for u, v in zip(x.split(2), y.split(2), strict=True):
        loss = F.mse_loss(net(u), v) / 5
        loss.backward()
        total += loss.item()
    return total


def clipped(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.01)
    return loss


def clipped_values(
    optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor
) -> Tensor:
    optimizer.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward()
    nn.utils.clip_grad_value_(net.parameters(), 1e-3)
    return loss


def by_module(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    net.zero_grad(set_to_none=False)
    loss = F.mse_loss(net(x), y)
    loss.backward()
    return loss


def silent(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Nothing returned."""
    optimizer.zero_grad()
    F.mse_loss(net(x), y).backward()


def unbackwarded(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """No backward call: the loss alone."""
    return F.mse_loss(net(x), y)


def retaining(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward(create_graph=True)
    return loss


def logging(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """With a second forward pass for a value that is logged."""
    optimizer.zero_grad()
    loss = F.mse_loss(net(x), y)
    with torch.no_grad():
        error = (net(x) - y).abs().mean()
    loss.backward()
    assert float(error) >= 0
    return loss


def uncleared(optimizer: torch.optim.Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    loss = F.mse_loss(net(x), y)
    loss.backward()
    return loss


def autocast() -> Problem:
    net, x, y = mlp(3, 4, 1).float(), randn(10, 3, seed=2).float(), randn(10, 1, seed=3).float()

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            z = net(x)
        return F.mse_loss(z.float(), y)

    return Problem(trained(net), loss, net)


def single(*layers: nn.Module) -> Problem:
    net = nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 1)).float()
    return fit(net, randn(10, 3, seed=2).float())


def normalised() -> Problem:
    """A loss over its own detached value."""
    net, x, y = mlp(3, 4, 1), randn(10, 3, seed=2), randn(10, 1, seed=3)

    def loss() -> Tensor:
        value = F.mse_loss(net(x), y)
        return value / value.detach()

    return Problem(trained(net), loss, net)


def fragile() -> Problem:
    """A scale that a step may make negative, which `Normal` answers with an exception."""
    mean, scale = (nn.Parameter(torch.tensor(v)) for v in (3.0, 1.0))
    data = 3 + 0.01 * randn(8, seed=2)
    return Problem([mean, scale], lambda: -Normal(mean, scale).log_prob(data).mean())


CASES = [
    Case("several backward calls", lambda: closing(several), quick=True),
    Case("gradient accumulation", lambda: closing(accumulated)),
    Case("clipping by norm", lambda: closing(clipped)),
    Case("clipping by value", lambda: closing(clipped_values)),
    Case("zero_grad of the module", lambda: closing(by_module)),
    Case("nothing returned", lambda: closing(silent)),
    Case("no backward call", lambda: closing(unbackwarded)),
    Case("backward with create_graph", lambda: closing(retaining)),
    Case("metrics in the closure", lambda: closing(logging)),
    Case(
        "no zero_grad", lambda: closing(uncleared), grows="gradients pile up, as the closure says"
    ),
    Case(
        "float32",
        lambda: single(nn.Tanh()),
        tol=1e-4,
        unprobed="differences need float64",
        quick=True,
    ),
    Case(
        "float32 BatchNorm",
        lambda: single(nn.BatchNorm1d(4), nn.Tanh()),
        tol=1e-4,
        unprobed="differences need float64",
        steps=30,
    ),
    Case(
        "float32 LayerNorm",
        lambda: single(nn.LayerNorm(4), nn.GELU()),
        tol=1e-4,
        unprobed="differences need float64",
    ),
    Case(
        "float32 closure",
        lambda: closing(several, torch.float32),
        tol=1e-4,
        unprobed="differences need float64",
    ),
    Case("autocast", autocast, tol=3e-2, unprobed="bfloat16 has three digits"),
    Case(
        "a loss over its own value",
        normalised,
        undirected="the gradient is not that of any loss",
        rests="it is one everywhere",
    ),
    Case("an exception away from the start", fragile, path=None),
]
