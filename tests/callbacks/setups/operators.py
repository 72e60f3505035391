"""Networks that learn functions and operators, graphs, and networks that make networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.callbacks.setups.build import SERIES, Function, X, classifier, mlp, regression
from tests.callbacks.setups.setup import ALL, Setup
from tests.helpers import generator

EDGES = torch.randint(0, 6, (2, 14), generator=generator(1))


class Splines(nn.Module):
    """A layer of a Kolmogorov-Arnold network: a sum of bumps on each edge, and silu."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.base = nn.Linear(inside, outside)
        self.weight = nn.Parameter(0.1 * torch.randn(outside, inside, 5))
        self.register_buffer("knots", torch.linspace(-2, 2, 5))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x[..., None] - self.knots) ** 2))
        return self.base(nn.functional.silu(x)) + torch.einsum("mik,oik->mo", bumps, self.weight)


class DeepONet(nn.Module):
    """branch(u) . trunk(y): the function u at sensors, and the places y."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk = nn.Linear(4, 5), nn.Sequential(nn.Linear(1, 5), nn.Tanh())
        self.register_buffer("places", torch.linspace(0, 1, 3)[:, None])

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.branch(u)) @ self.trunk(self.places).T


class Hypernetwork(nn.Module):
    """A network whose output is the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4 * 3 + 3))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.maker(x[:, :2]).split([12, 3], -1)
        return torch.tanh(torch.bmm(weight.view(-1, 3, 4), x[..., None])[..., 0] + bias).sum(
            1, keepdim=True
        )


class Spectral(nn.Module):
    """A Fourier layer: complex weights, kept as pairs of real ones, on the lowest modes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(2, 3, 2, 2))
        self.skip, self.head = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        modes = torch.fft.rfft(x, dim=1)[:, :2]
        kept = torch.einsum("mki,iok->mko", modes, torch.view_as_complex(self.weight))
        inner = torch.fft.irfft(kept, n=x.shape[1], dim=1)
        return self.head(torch.tanh(inner + self.skip(x))).mean(1)


class Complex(nn.Module):
    """A weight that is complex itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight).abs()


class Messages(nn.Module):
    """Each node adds up what its neighbours send."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(8, 5), nn.Linear(9, 1)

    def forward(self, x: Tensor) -> Tensor:
        sender, receiver = EDGES
        sent = torch.relu(self.message(torch.cat([x[sender], x[receiver]], -1)))
        got = torch.zeros(len(x), 5).index_add(0, receiver, sent)
        return self.update(torch.cat([x, got], -1))


class Adjacency(nn.Module):
    """A graph convolution by a sparse matrix, kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        matrix = torch.sparse_coo_tensor(EDGES, torch.ones(14) / 3, (6, 6)).coalesce()
        self.register_buffer("matrix", matrix)
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sparse.mm(self.matrix, torch.tanh(self.first(x))))


class Experts(nn.Module):
    """The better two of three experts for each sample, by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList([mlp() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).topk(2)
        weight, out = weight.softmax(-1), torch.zeros(len(x), 1)
        for i, expert in enumerate(self.experts):
            rows, place = (chosen == i).nonzero(as_tuple=True)
            out = out.index_add(0, rows, weight[rows, place, None] * expert(x[rows]))
        return out


class Heads(nn.Module):
    """Layers in a dictionary and parameters in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)})
        self.scales = nn.ParameterList([torch.ones(2), torch.zeros(2)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [h(x) * s for h, s in zip(self.heads.values(), self.scales, strict=True)], -1
        )


def flow(net: nn.Module) -> nn.Module:
    """Four steps of the midpoint rule."""

    def integrate(h: Tensor) -> Tensor:
        for _ in range(4):
            h = h + net(h + net(h) / 8) / 4
        return h

    module = Function(integrate)
    module.net = net
    return module


def fixed_point(h: Tensor) -> Tensor:
    """z = tanh(z/2 + h), by iteration."""
    z = torch.zeros_like(h)
    for _ in range(8):
        z = torch.tanh(z / 2 + h)
    return z


def fourier(h: Tensor) -> Tensor:
    return torch.cat([h.sin(), h.cos()], -1)[:, ::2]


SETUPS = [
    Setup("kolmogorov-arnold", lambda: regression(nn.Sequential(Splines(4, 3), Splines(3, 1))),
          quick=True),
    Setup("siren", lambda: regression(Function(lambda h: torch.sin(30 * h)))),
    Setup("fourier features", lambda: regression(Function(fourier))),
    Setup("deeponet", lambda: regression(DeepONet(), X, X[:, :3].sin())),
    Setup("hypernetwork", lambda: regression(Hypernetwork())),
    Setup("fourier operator", lambda: regression(Spectral(), SERIES), quick=True),
    Setup("complex", lambda: regression(Complex()), nan=ALL, warns="view_as_complex", quick=True),
    Setup("messages on a graph", lambda: regression(Messages())),
    Setup("sparse adjacency", lambda: regression(Adjacency())),
    Setup("mixture of experts", lambda: regression(Experts())),
    Setup("neural ode", lambda: regression(flow(nn.Sequential(nn.Linear(5, 5), nn.Tanh())))),
    Setup("fixed point", lambda: regression(Function(fixed_point))),
    Setup("orthogonal projection", lambda: regression(
        Function(lambda h: h @ torch.linalg.qr(h.T @ h + torch.eye(5))[0]))),
    Setup("several heads", lambda: classifier(nn.Sequential(Heads(), nn.Linear(4, 3)), X)),
]  # fmt: skip
