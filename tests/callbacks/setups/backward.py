"""Functions whose derivatives autograd does not know by itself, or not twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.callbacks.setups.build import Function, Module, X, Y, mlp, regression, squared, train
from tests.callbacks.setups.setup import BY_DIFFERENCES, HESSIAN, Setup, Training

NO_DERIVATIVE = "not the derivative of the forward pass"


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh().square())


class Twice(torch.autograd.Function):
    """Its backward is made of operations that autograd knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp().log1p()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.sigmoid(x)


class Straight(torch.autograd.Function):
    """Rounds, and lets gradients through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Reversed(torch.autograd.Function):
    """The identity, with the opposite gradient, as in domain-adversarial training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class Adversarial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.task, self.domain = nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.features(x))
        return self.task(h) + self.domain(Reversed.apply(h))


class Hooked(nn.Module):
    """Gradients are clamped on their way back, and outputs kept on the way there."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kept = mlp(), {}
        self.net[0].register_forward_hook(self.keep)
        self.net[2].register_full_backward_hook(lambda module, inward, out: None)
        self.net[0].weight.register_hook(lambda grad: grad.clamp(-0.1, 0.1))

    def keep(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        self.kept["first"] = output

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class CompiledWhole(Module):
    """The training step itself is compiled."""

    def training_step(self, batch: Any) -> Any:
        self.calls += 1
        return torch.compile(squared, backend="aot_eager")(self.net, batch)


def ctc(net: Any, batch: Any) -> Tensor:
    log_probabilities = net(batch[0]).view(3, 2, 5).log_softmax(-1)
    targets, long = torch.tensor([[1, 2], [3, 1]]), torch.full((2,), 3)
    return F.ctc_loss(log_probabilities, targets, long, torch.full((2,), 2))


def compiled(*between: nn.Module) -> Any:
    return torch.compile(mlp(*between), backend="aot_eager")


def reentrant(h: Tensor) -> Tensor:
    return checkpoint(torch.tanh, h, use_reentrant=True)


def in_segments(h: Tensor) -> Tensor:
    layers = [torch.tanh, F.dropout, torch.sin]
    return checkpoint_sequential(layers, 2, h, use_reentrant=False)


SETUPS = [
    Setup("once differentiable", lambda: regression(Function(Once.apply)), warns=BY_DIFFERENCES,
          quick=True),
    Setup("twice differentiable", lambda: regression(Function(Twice.apply))),
    Setup("straight through", lambda: regression(Function(Straight.apply)),
          nan=HESSIAN, warns=NO_DERIVATIVE),
    Setup("reversed gradient", lambda: regression(Adversarial()), nan=HESSIAN, warns=NO_DERIVATIVE),
    Setup("hooks on gradients", lambda: regression(Hooked()), nan=None),
    Setup("ctc", lambda: train(nn.Linear(4, 5), ctc), warns=BY_DIFFERENCES, quick=True),
    Setup("cdist", lambda: regression(Function(lambda h: torch.cdist(h, torch.eye(5)))),
          warns=BY_DIFFERENCES),
    Setup("compiled", lambda: regression(compiled()), quick=True),
    Setup("compiled with dropout and batch norm", lambda: regression(
        compiled(nn.BatchNorm1d(5), nn.Dropout(0.2)))),
    Setup("a compiled part", lambda: regression(
        nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), compiled()))),
    Setup("a compiled step", lambda: Training(CompiledWhole(mlp(), squared), [(X, Y)]), nan=None),
    Setup("scripted", lambda: regression(
        nn.Sequential(nn.Linear(4, 4), torch.jit.script(mlp())))),
    Setup("checkpointed", lambda: regression(
        Function(lambda h: checkpoint(torch.tanh, h, use_reentrant=False)))),
    Setup("checkpointed, reentrant", lambda: regression(Function(reentrant)), nan=None),
    Setup("checkpointed in segments", lambda: regression(Function(in_segments))),
]  # fmt: skip
