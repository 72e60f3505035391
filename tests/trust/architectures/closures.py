"""Closures that do more than compute a loss, and operations that autograd treats specially."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.helpers import mlp, randn
from tests.trust.architectures.build import Lambda, between, fit, trained
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

    criterion = lambda z: F.mse_loss(z, y)  # noqa: E731
    loss = lambda: criterion(net(x))  # noqa: E731
    return Problem(trained(net), loss, net, lambda: net(x), criterion, made)


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


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, first: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.reentrant, self.first = reentrant, first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:  # whose input needs a gradient, or else PyTorch refuses
            x = x.clone().requires_grad_()
            x = checkpoint(lambda u: torch.tanh(self.a(u)), x, use_reentrant=self.reentrant)
            return self.c(torch.tanh(self.b(x)))
        x = torch.tanh(self.a(x))
        return self.c(checkpoint(lambda u: torch.tanh(self.b(u)), x, use_reentrant=self.reentrant))


class Swish(torch.autograd.Function):
    """x sigmoid(x), with a backward pass that can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * (s + x * s * (1 - s))


class Once(Swish):
    """The same in a backward pass that cannot."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * (s + x * s * (1 - s))


class Detached(Swish):
    """The same with a second derivative that is silently wrong: what it needs was detached."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x = ctx.saved_tensors[0].detach()
        s = x.sigmoid()
        return g * (s + x * s * (1 - s))


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


def compiled() -> Problem:
    net = mlp(3, 4, 1)
    problem = fit(net, randn(10, 3, seed=2))
    run = torch.compile(net, backend="eager")
    x, criterion = randn(10, 3, seed=2), problem.criterion
    assert criterion is not None
    return Problem(trained(net), lambda: criterion(run(x)), net, lambda: net(x), criterion)


def scripted() -> Problem:
    net = mlp(3, 4, 1)
    return fit(torch.jit.trace(net, randn(10, 3, seed=2)), randn(10, 3, seed=2))


def straight_through() -> nn.Module:
    return Lambda(lambda x: x + (x.round() - x).detach())


def hooked() -> Problem:
    net = mlp(3, 4, 1)
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return fit(net, randn(10, 3, seed=2))


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
        tol=1e-3,
        unprobed="differences need float64",
        quick=True,
    ),
    Case(
        "float32 BatchNorm",
        lambda: single(nn.BatchNorm1d(4), nn.Tanh()),
        tol=1e-3,
        unprobed="differences need float64",
        steps=30,
    ),
    Case(
        "float32 LayerNorm",
        lambda: single(nn.LayerNorm(4), nn.GELU()),
        tol=1e-3,
        unprobed="differences need float64",
    ),
    Case(
        "float32 closure",
        lambda: closing(several, torch.float32),
        tol=1e-3,
        unprobed="differences need float64",
    ),
    Case("autocast", autocast, tol=3e-2, unprobed="bfloat16 has three digits"),
    Case("checkpoint", lambda: fit(Checkpointed(False, False), randn(10, 3, seed=2))),
    Case(
        "checkpoint of the first layer",
        lambda: fit(Checkpointed(False, True), randn(10, 3, seed=2)),
    ),
    Case(
        "reentrant checkpoint",
        lambda: fit(Checkpointed(True, False), randn(10, 3, seed=2)),
        refused="use_reentrant=False",
    ),
    Case(
        "reentrant checkpoint of the first layer",
        lambda: fit(Checkpointed(True, True), randn(10, 3, seed=2)),
        refused="use_reentrant=False",
    ),
    Case("custom function", lambda: between(Lambda(Swish.apply))),
    Case(
        "custom function, once differentiable",
        lambda: between(Lambda(Once.apply)),
        differences="it has no second derivative",
    ),
    Case(
        "custom function, detached",
        lambda: between(Lambda(Detached.apply)),
        differences="its second derivative is wrong",
    ),
    Case(
        "straight-through rounding",
        lambda: between(straight_through()),
        unprobed="the gradient is not that of the loss",
        rests="descent along a surrogate",
    ),
    Case(
        "a loss over its own value",
        normalised,
        undirected="the gradient is not that of any loss",
        rests="it is one everywhere",
    ),
    Case("an exception away from the start", fragile, path=None),
    Case("torch.compile, eager", compiled),
    Case("torch.jit.trace", scripted),
    Case("forward hook", hooked),
]
