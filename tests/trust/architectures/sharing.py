"""Weights that are tied, frozen, adapted, masked or used in unusual ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from tests.helpers import randn
from tests.trust.architectures.build import between, fit
from tests.trust.architectures.case import Case, Problem


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.b, self.c = (
            nn.Parameter(0.5 * torch.randn(s)) for s in ((2, 4), (2,), (4,))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.weight, self.b)), self.weight.T, self.c)


class Twice(nn.Module):
    """One layer applied several times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.head, self.times = nn.Linear(3, 3), nn.Linear(3, 1), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.layer(x))
        return self.head(x)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.net(a) - self.net(b)).square().sum(1)


class Adapted(nn.Module):
    """A frozen layer plus a product of two thin ones, of which one starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.down.T @ self.up.T * 0.5


class Merged(Adapted):
    """The same with the product added to the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight + 0.5 * self.up @ self.down, self.layer.bias)


class Symmetric(nn.Module):
    def forward(self, X: Tensor) -> Tensor:
        return X.triu() + X.triu(1).mT


def parametrized(how: nn.Module) -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", how)
    return layer


class Used(nn.Module):
    """A parameter through the function given, as the weight of a layer."""

    def __init__(self, shape: tuple[int, ...], weight: object) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(0.5 * torch.randn(shape)), weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.function(self.weight))  # type: ignore[operator]


class Bottleneck(nn.Module):
    """An adapter between frozen layers, with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(x)))


class Broadcast(nn.Module):
    """A scale and a shift of each feature, and one of all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4, 1))
        self.all = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.all * (x * self.scale + self.shift[:, 0])


def frozen(bias_alone: bool) -> Problem:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    (net[0].bias if bias_alone else net[0]).requires_grad_(False)
    return fit(net, randn(10, 3, seed=2))


def unused() -> Problem:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    problem = fit(net, randn(10, 3, seed=2))
    spare = nn.Parameter(torch.ones(3))
    return Problem([spare, *problem.params], problem.loss, net, problem.outputs, problem.criterion)


def bias_only() -> Problem:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    for layer in (net[0], net[2]):
        layer.weight.requires_grad_(False)
    return fit(net, randn(10, 3, seed=2))


def pruned() -> nn.Module:
    layer = nn.Linear(4, 4)
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


CASES = [
    Case("tied autoencoder", lambda: fit(Autoencoder(), randn(8, 4, seed=2)), quick=True),
    Case("a layer twice", lambda: fit(Twice(2), randn(10, 3, seed=2))),
    Case("a layer five times", lambda: fit(Twice(5), randn(10, 3, seed=2))),
    Case("siamese", lambda: fit(Siamese(), randn(8, 3, seed=2), randn(8, 3, seed=4))),
    Case("frozen first layer", lambda: frozen(False)),
    Case("frozen bias", lambda: frozen(True)),
    Case("biases alone", bias_only),
    Case("a parameter that is not used", unused),
    Case("LoRA", lambda: between(Adapted()), quick=True),
    Case("LoRA merged", lambda: between(Merged())),
    Case("bottleneck adapter", lambda: between(Bottleneck())),
    Case("symmetric weight", lambda: between(parametrized(Symmetric()))),
    Case("positive weight", lambda: between(parametrized(nn.Softplus()))),
    Case("pruned weight", lambda: between(pruned())),
    Case("scales and shifts", lambda: between(Broadcast())),
    Case("weight transposed", lambda: between(Used((4, 4), lambda w: w.T))),
    Case("weight sliced", lambda: between(Used((6, 5), lambda w: w[1:5, ::1][:, :4]))),
    Case("weight reshaped", lambda: between(Used((16,), lambda w: w.view(4, 4)))),
    Case("weight expanded", lambda: between(Used((4,), lambda w: w.expand(4, 4)))),
    Case("weight of blocks", lambda: between(Used((2, 2), lambda w: torch.block_diag(w, w)))),
    Case(
        "weight as a Kronecker product", lambda: between(Used((2, 2), lambda w: torch.kron(w, w)))
    ),
    Case(
        "weight as a circulant",
        lambda: between(Used((4,), lambda w: torch.stack([w.roll(i) for i in range(4)]))),
    ),
    Case(
        "weight by index", lambda: between(Used((5,), lambda w: w[torch.arange(16).view(4, 4) % 5]))
    ),
    Case("weight squared", lambda: between(Used((4, 4), torch.square))),
    Case("weight normalised by softmax", lambda: between(Used((4, 4), lambda w: w.softmax(1)))),
]
