"""Parameters that are shared, frozen, made of others, or not made yet."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.callbacks.setups.build import IMAGES, Module, X, Y, classifier, mlp, regression, squared
from tests.callbacks.setups.setup import ALL, HESSIAN, Setup, Training


class LowRank(nn.Module):
    """A frozen layer with an adapter of rank two, as in LoRA."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(0.3 * torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).T


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)

    def right_inverse(self, x: Tensor) -> Tensor:
        return x.abs().expm1().clamp_min(1e-3).log()


class Mixed(nn.Module):
    """Layers of two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3).double(), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.double()).float())


class Backbone(Module):
    """A frozen network with batch norm in evaluation, below a trained layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 1), lambda net, b: squared(lambda x: net(self.below(x)), b))
        self.below = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.below.eval()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), 1e-2)


class Student(Module):
    """Learns from a frozen teacher."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 3), self.distance)
        self.teacher = nn.Linear(4, 3).requires_grad_(False)

    def distance(self, net: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            target = self.teacher(batch[0]).log_softmax(-1)
        return F.kl_div(net(batch[0]).log_softmax(-1), target, log_target=True)


class Target(Module):
    """Follows a slow copy of itself, as in BYOL."""

    def __init__(self) -> None:
        super().__init__(mlp(), lambda net, b: F.mse_loss(net(b[0]), 0.9 * self.slow(b[0].flip(0))))
        self.slow = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, *_: Any) -> None:
        for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.1)


class Normalized(Module):
    """Puts its weights back onto the sphere at each step, before it uses them."""

    def training_step(self, batch: Any) -> Any:
        with torch.no_grad():
            self.net[0].weight /= self.net[0].weight.norm(dim=1, keepdim=True)
        return super().training_step(batch)


def by_hooks(wrap: Any, net: nn.Module) -> nn.Module:
    """By the forms that PyTorch deprecates and much code still uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wrap(net)


def wrapped(wrap: Any, *inner: Any) -> Training:
    return regression(nn.Sequential(wrap(nn.Linear(4, 4), *inner), nn.Linear(4, 1)))


def symmetric(layer: nn.Linear, kind: nn.Module) -> nn.Linear:
    parametrize.register_parametrization(layer, "weight", kind)
    return layer


SETUPS = [
    Setup("weight norm", lambda: regression(
        nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 1))),
        nan=HESSIAN, warns="not symmetric", quick=True),
    Setup("weight norm by hooks", lambda: wrapped(
        lambda layer: by_hooks(nn.utils.weight_norm, layer)), nan=None),
    Setup("spectral norm", lambda: regression(parametrizations.spectral_norm(nn.Linear(4, 1)))),
    Setup("spectral norm by hooks", lambda: wrapped(
        lambda layer: by_hooks(nn.utils.spectral_norm, layer))),
    Setup("orthogonal", lambda: wrapped(parametrizations.orthogonal), nan=None),
    Setup("symmetric", lambda: wrapped(symmetric, Symmetric())),
    Setup("positive", lambda: wrapped(symmetric, Positive())),
    Setup("lazy", lambda: regression(
        nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 1))), quick=True),
    Setup("lazy convolutions", lambda: classifier(
        nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3)),
        IMAGES)),
    Setup("adapters", lambda: regression(
        nn.Sequential(LowRank(nn.Linear(4, 5)), nn.Tanh(), LowRank(nn.Linear(5, 1)))), quick=True),
    Setup("frozen backbone", lambda: Training(Backbone(), [(X, Y)])),
    Setup("teacher and student", lambda: Training(Student(), [(X, Y)])),
    Setup("slow copy", lambda: Training(Target(), [(X, Y)])),
    Setup("weights on a sphere", lambda: Training(Normalized(mlp(), squared), [(X, Y)])),
    Setup("unused parameters", lambda: Training(
        Module(nn.ModuleList([mlp(), nn.Linear(2, 2)]), lambda net, b: squared(net[0], b)),
        [(X, Y)])),
    Setup("double and single", lambda: regression(Mixed()), nan=ALL, warns="one dtype"),
]  # fmt: skip
