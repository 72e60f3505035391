"""Problems of more rows than are formed one by one: their layers have to be read from the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import mlp, randn
from tests.trust.architectures import attention, dynamics, functions, recurrent
from tests.trust.architectures.build import Lambda, cross_entropy, fit, trained
from tests.trust.architectures.case import Case, Problem

LABELS = torch.arange(300) % 3


def net(*layers: nn.Module, width: int = 12) -> Problem:
    """Layers between a linear one and three outputs, on 90 samples: 270 rows."""
    model = nn.Sequential(nn.Linear(3, width), *layers, nn.Linear(width, 3))
    return fit(model, randn(90, 3, seed=2))


def image(*layers: nn.Module) -> Problem:
    """Layers of images, whose every pixel is an output."""
    return fit(nn.Sequential(*layers), randn(8, 2, 6, 6, seed=2))


def weighted() -> Problem:
    """Samples weighted by hand: 0.1 to 2."""
    weights, y = torch.linspace(0.1, 2, 90)[:, None], randn(90, 3, seed=3)

    def criterion(z: Tensor) -> Tensor:
        return (weights * (z - y) ** 2).mean()

    return fit(mlp(3, 12, 3), randn(90, 3, seed=2), criterion=criterion)


def labelled() -> Problem:
    return fit(mlp(3, 12, 3), randn(300, 3, seed=2), criterion=cross_entropy(LABELS))


def informed() -> Problem:
    """Poisson's equation at 300 points."""
    model, x = mlp(1, 24, 1), torch.linspace(0, 1, 300)[:, None]

    def loss() -> Tensor:
        inside = x.clone().requires_grad_()
        (du,) = torch.autograd.grad(model(inside).sum(), inside, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), inside, create_graph=True)
        return (ddu + 1).square().mean() + model(x[[0, -1]]).square().mean()

    return Problem(trained(model), loss, model)


class Edges(nn.Module):
    """Messages along the edges of a ring, summed at nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        source = torch.arange(len(x))
        z = torch.zeros(len(x), 12).to(x).index_add(0, source.roll(1), self.a(x)[source])
        return self.b(torch.tanh(z + self.a(x)))


class Operator(functions.DeepONet):
    """A wider one."""

    def __init__(self, spelling: str) -> None:
        super().__init__(spelling)
        self.branch = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.trunk = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 4))


def operator(spelling: str) -> Problem:
    points = torch.linspace(0, 1, 20)[:, None]
    return fit(Operator(spelling), randn(15, 4, seed=2), points)


class Basis(functions.Matched):
    """All pairs of inputs and outputs of a spline layer are outputs of the network."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ijk,jlk->ijl", self.values(x), self.weight)


class WideSpline(functions.Spline):
    """Curves from two inputs to five and on to one."""

    def __init__(self, basis: str) -> None:
        super().__init__(basis)
        self.all = nn.ParameterList(0.3 * torch.randn(o, i, 5) for i, o in ((2, 5), (5, 1)))


class Hyper(nn.Module):
    """The weights of a layer, shared by all samples, made from a code."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.code = nn.Linear(3, 17), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        w = self.make(self.code)
        return torch.tanh(F.linear(x, w[:8].view(4, 2), w[8:12])) @ w[12:16] + w[16]


class WideExperts(functions.Experts):
    """Three experts of six units."""

    def __init__(self, k: int | None) -> None:
        super().__init__(k)
        self.experts = nn.ModuleList(mlp(2, 6, 1, seed=i) for i in range(3))


class WideFlow(dynamics.Flow):
    """A field of sixteen units."""

    def __init__(self) -> None:
        super().__init__(dynamics.runge_kutta)
        self.field = mlp(2, 16, 2)


class Pairs(nn.Module):
    """Products of pairs of features, with a weight for each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, :4], x[:, 4:8])


class Squared(nn.Module):
    """A layer whose weights are squares."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight**2)


CASES = [
    Case("many rows: linear", lambda: net(nn.Tanh())),
    Case("many rows: LayerNorm", lambda: net(nn.LayerNorm(12), nn.GELU())),
    Case(
        "many rows: BatchNorm1d",
        lambda: net(nn.BatchNorm1d(12), nn.Tanh()),
        path=None,  # samples depend on each other
        steps=30,
    ),
    Case("many rows: RMSNorm", lambda: net(nn.RMSNorm(12), nn.SiLU())),
    Case("many rows: PReLU", lambda: net(nn.PReLU(12))),
    Case("many rows: GLU", lambda: net(nn.Linear(12, 24), nn.GLU())),
    Case("many rows: softmax", lambda: net(nn.Softmax(1))),
    Case("many rows: squared weight", lambda: net(nn.Tanh(), Squared())),
    Case(
        "many rows: Conv2d",
        lambda: image(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1)),
    ),
    Case(
        "many rows: ConvTranspose2d",
        lambda: image(nn.ConvTranspose2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1)),
    ),
    Case(
        "many rows: GroupNorm",
        lambda: image(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)),
    ),
    Case(
        "many rows: LSTM",
        lambda: fit(recurrent.Each(nn.LSTM(2, 3, batch_first=True), 3), randn(60, 5, 2, seed=2)),
    ),
    Case(
        "many rows: GRU",
        lambda: fit(recurrent.Each(nn.GRU(2, 4, batch_first=True), 4), randn(60, 5, 2, seed=2)),
    ),
    Case("many rows: attention", lambda: fit(attention.Multihead(), randn(70, 4, 4, seed=2))),
    Case(
        "many rows: attention by hand",
        lambda: fit(attention.Hand(attention.softmax), randn(70, 4, 4, seed=2)),
    ),
    Case(
        "many rows: Embedding",
        lambda: fit(
            nn.Sequential(nn.Embedding(20, 4), nn.Tanh(), nn.Linear(4, 3)), torch.arange(100) % 20
        ),
    ),
    Case("many rows: graph", lambda: fit(Edges(), randn(90, 3, seed=2))),
    Case("many rows: weighted samples", weighted),
    Case("many rows: cross-entropy", labelled),
    Case("many rows: Poisson", informed),
    *(
        Case(f"many rows: DeepONet, {how}", lambda how=how: operator(how))
        for how in ("einsum", "matmul", "sum")
    ),
    Case("many rows: KAN, oik", lambda: fit(WideSpline("gauss"), randn(260, 2, seed=2))),
    Case("many rows: KAN, ijk,jlk->ijl", lambda: fit(Basis(), randn(60, 2, seed=2))),
    Case("many rows: SIREN", lambda: fit(functions.Sine(3.0), torch.linspace(-1, 1, 270)[:, None])),
    Case("many rows: hypernetwork", lambda: fit(Hyper(), randn(270, 2, seed=2))),
    Case("many rows: experts", lambda: fit(WideExperts(None), randn(270, 2, seed=2))),
    Case("many rows: Runge-Kutta", lambda: fit(WideFlow(), randn(140, 2, seed=2))),
    Case(
        "many rows: Bilinear",
        lambda: fit(
            nn.Sequential(nn.Linear(3, 12), Lambda(torch.tanh), Pairs()), randn(90, 3, seed=2)
        ),
    ),
]
