"""Networks of coordinates, networks that make networks, and products of factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import randn
from tests.trust.architectures.build import Lambda, fit, free
from tests.trust.architectures.case import Case, Problem


class Hypernetwork(nn.Module):
    """A network whose weights another one makes from a code."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.make, self.codes = nn.Linear(2, 13), nn.Parameter(torch.randn(8 if each else 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        w = self.make(self.codes)
        h = torch.tanh(torch.einsum("bij,bj->bi", w[:, :8].view(-1, 4, 2).expand(8, 4, 2), x))
        return (w[:, 8:12] * h).sum(1) + w[:, 12]


class DeepONet(nn.Module):
    """Products of a network of the input function and one of the coordinate."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        self.trunk = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 3))
        self.bias, self.spelling = nn.Parameter(torch.zeros(())), spelling

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        b, t = self.branch(u), self.trunk(y)
        if self.spelling == "einsum":
            return torch.einsum("bi,ni->bn", b, t) + self.bias
        if self.spelling == "matmul":
            return b @ t.T + self.bias
        return (b[:, None] * t).sum(2) + self.bias


class Spline(nn.Module):
    """A Kolmogorov-Arnold layer: a curve for each pair of input and output."""

    def __init__(self, basis: str) -> None:
        super().__init__()
        self.curves = [nn.Parameter(0.3 * torch.randn(o, i, 5)) for i, o in ((2, 3), (3, 1))]
        self.all, self.basis = nn.ParameterList(self.curves), basis

    def values(self, x: Tensor) -> Tensor:
        knots = torch.linspace(-2, 2, 5).to(x)
        if self.basis == "hats":
            return (1 - (x[..., None] - knots).abs()).clamp(min=0)
        if self.basis == "chebyshev":
            return torch.cos(torch.arange(5).to(x) * torch.tanh(x)[..., None].acos())
        return torch.exp(-((x[..., None] - knots) ** 2))

    def forward(self, x: Tensor) -> Tensor:
        for curve in self.all:
            x = torch.einsum("bik,oik->bo", self.values(x), curve)
        return x


class Matched(Spline):
    """The same with an axis of samples in front: einsum("ijk,jlk->ijl")."""

    def __init__(self) -> None:
        super().__init__("gauss")
        self.weight = nn.Parameter(0.3 * torch.randn(2, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ijk,jlk->ijl", self.values(x), self.weight).sum((1, 2))


class Sine(nn.Module):
    """SIREN: sines of frequency 30, with the weights that its authors start from."""

    def __init__(self, frequency: float = 30.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 10), nn.Linear(10, 10), nn.Linear(10, 1)])
        self.frequency = frequency
        with torch.no_grad():
            self.layers[0].weight.uniform_(-1, 1)
            for layer in self.layers[1:]:
                layer.weight.uniform_(-((6 / 10) ** 0.5) / frequency, (6 / 10) ** 0.5 / frequency)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(self.frequency * layer(x))
        return self.layers[-1](x)


class Wild(Sine):
    """The same from PyTorch's initial weights: eigenvalues of both signs up to 1e4."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 10), nn.Linear(10, 10), nn.Linear(10, 1)])


class Radial(nn.Module):
    """Gaussians around learned centres."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.centres, self.width = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.zeros(4))
        self.head, self.how = nn.Linear(4, 1), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "cdist":
            squares = torch.cdist(x, self.centres) ** 2
        else:
            squares = (x[:, None] - self.centres).square().sum(2)
        return self.head(torch.exp(-squares * self.width.exp()))


class Frequencies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.B, self.head = nn.Parameter(torch.randn(2, 4)), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.sin(x @ self.B), torch.cos(x @ self.B)], 1))


class Multiplicative(nn.Module):
    """A multiplicative filter network."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.ModuleList([nn.Linear(2, 4), nn.Linear(2, 4)])
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.sin(self.filters[0](x))
        return self.head(self.inner(z) * torch.sin(self.filters[1](x)))


class Film(nn.Module):
    """Scales and shifts of features that come from a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.condition, self.head = nn.Linear(1, 4), nn.Linear(1, 8), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.condition(x[:, 1:]).chunk(2, 1)
        return self.head(torch.tanh((1 + scale) * self.inner(x[:, :1]) + shift))


class Experts(nn.Module):
    """A mixture of experts: all of them, or the best k for each sample."""

    def __init__(self, k: int | None) -> None:
        super().__init__()
        self.gate, self.k = nn.Linear(2, 3), k
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)) for _ in range(3)]
        )

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x)
        if self.k is not None:
            lowest = scores.topk(self.k, 1).values[:, -1:]
            scores = scores.masked_fill(scores < lowest, -torch.inf)
        outputs = torch.cat([expert(x) for expert in self.experts], 1)
        return (scores.softmax(1) * outputs).sum(1)


class Routed(Experts):
    """Each sample goes to one expert alone, by index."""

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(1).max(1)
        z = torch.zeros(len(x), 1).to(x)
        for number, expert in enumerate(self.experts):
            where = (chosen == number).nonzero()[:, 0]
            z = z.index_put((where,), expert(x[where]))
        return weights[:, None] * z


class Adaptation(nn.Module):
    """One gradient step on a support set within the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(4))
        self.head, self.rate = nn.Parameter(torch.randn(4)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        support, target = x[:4], x[:4, 0]
        inner = (torch.tanh(support @ self.w + self.b) @ self.head - target).square().mean()
        (slope,) = torch.autograd.grad(inner, self.head, create_graph=True)
        return torch.tanh(x[4:] @ self.w + self.b) @ (self.head - self.rate * slope)


class Additive(nn.Module):
    """A network for each input, by convolutions in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 6, 1, groups=2), nn.Conv1d(6, 2, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x[..., None]))).sum((1, 2))


def images() -> Tensor:
    return randn(8, 2, seed=2)


def siren() -> Problem:
    return fit(Sine(), torch.linspace(-1, 1, 8)[:, None])


def positions() -> Problem:
    x = images()
    encoded = torch.cat([f(2.0**k * x) for k in range(3) for f in (torch.sin, torch.cos)], 1)
    return fit(nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 1)), encoded)


def factorized(how: str) -> Problem:
    """A matrix of 5 x 4 as a product of rank two, seen in 14 entries."""
    U, V, Y = randn(5, 2, seed=1), randn(4, 2, seed=2), randn(5, 4, seed=3)
    seen = torch.arange(20).view(5, 4) % 7 != 0

    def loss() -> Tensor:
        R = (U @ V.T if how == "matmul" else torch.einsum("ir,jr->ij", U, V)) - Y
        return R[seen].square().mean()

    return free([U, V], loss)


def tensor_train() -> Problem:
    A, B, C, Y = randn(4, 2, seed=1), randn(2, 3, 2, seed=2), randn(2, 4, seed=3), randn(4, 3, 4)
    return free([A, B, C], lambda: F.mse_loss(torch.einsum("ia,ajb,bk->ijk", A, B, C), Y))


def canonical() -> Problem:
    A, B, C, Y = randn(4, 2, seed=1), randn(3, 2, seed=2), randn(4, 2, seed=3), randn(4, 3, 4)
    return free([A, B, C], lambda: F.mse_loss(torch.einsum("ir,jr,kr->ijk", A, B, C), Y))


CASES = [
    Case("hypernetwork", lambda: fit(Hypernetwork(True), images()), quick=True),
    Case("hypernetwork of one code", lambda: fit(Hypernetwork(False), images())),
    *(
        Case(
            f"DeepONet, {how}",
            lambda how=how: fit(
                DeepONet(how), randn(4, 4, seed=2), torch.linspace(0, 1, 5)[:, None]
            ),
            quick=how == "einsum",
        )
        for how in ("einsum", "matmul", "sum")
    ),
    *(
        Case(f"KAN, {how}", lambda how=how: fit(Spline(how), images()))
        for how in ("hats", "chebyshev", "gauss")
    ),
    Case("KAN, ijk,jlk->ijl", lambda: fit(Matched(), images())),
    Case("SIREN", siren),
    Case("SIREN from PyTorch's weights", lambda: fit(Wild(), randn(16, 2, seed=2))),
    Case("SIREN of low frequency", lambda: fit(Sine(3.0), torch.linspace(-1, 1, 8)[:, None])),
    Case("Fourier features", lambda: fit(Frequencies(), images())),
    Case("positional encoding", positions),
    Case("radial basis functions", lambda: fit(Radial("by hand"), images())),
    Case(
        "radial basis functions, cdist",
        lambda: fit(Radial("cdist"), images()),
        differences="cdist has no second derivative",
    ),
    Case("multiplicative filters", lambda: fit(Multiplicative(), images())),
    Case("FiLM", lambda: fit(Film(), images())),
    Case("mixture of experts", lambda: fit(Experts(None), images())),
    Case("mixture of two experts", lambda: fit(Experts(2), images())),
    Case("routed experts", lambda: fit(Routed(None), images())),
    Case("a gradient step within", lambda: fit(Adaptation(), images())),
    Case("additive model", lambda: fit(Additive(), images())),
    Case(
        "polynomial",
        lambda: fit(
            nn.Sequential(
                Lambda(lambda x: torch.cat([x**k for k in range(4)], 1)), nn.Linear(8, 1)
            ),
            images(),
        ),
    ),
    Case("matrix factorization", lambda: factorized("matmul")),
    Case("matrix factorization, einsum", lambda: factorized("einsum")),
    Case("tensor train", tensor_train),
    Case("canonical decomposition", canonical),
]
