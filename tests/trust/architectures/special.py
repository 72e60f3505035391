"""Operations that autograd treats specially: checkpoints, custom functions, compiled models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers import mlp, randn
from tests.trust.architectures.build import Lambda, between, fit, trained
from tests.trust.architectures.case import Case, Problem


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
    Case("torch.compile, eager", compiled),
    Case("torch.jit.trace", scripted),
    Case("forward hook", hooked),
]
