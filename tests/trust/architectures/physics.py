"""Physics-informed networks, by every way of differentiating in the inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from tests.helpers import mlp, pinn_residual, randn
from tests.trust.architectures.build import trained
from tests.trust.architectures.case import Case, Problem


def points(count: int = 8, dimension: int = 2) -> Tensor:
    return torch.rand(count, dimension, generator=torch.Generator().manual_seed(2)).to(
        torch.float64
    )


def slopes(u: Tensor, x: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return g


def nested(residual: Callable[[Tensor, Tensor, Tensor], Tensor], boundary: float = 1.0) -> Problem:
    """Squares of a residual of u, its slopes and the points, and of u on the boundary."""
    net, x, edge = mlp(2, 5, 1), points(), points(5)
    edge[:, 0] = 0

    def loss() -> Tensor:
        inside = x.clone().requires_grad_()
        u = net(inside)
        r = residual(u, slopes(u, inside), inside)
        return r.square().mean() + boundary * net(edge).square().mean()

    return Problem(trained(net), loss, net)


def burgers(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    return du[:, 0] + u[:, 0] * du[:, 1] - 0.01 * slopes(du[:, 1], x)[:, 1]


def wave(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    return slopes(du[:, 0], x)[:, 0] - slopes(du[:, 1], x)[:, 1] - torch.sin(x[:, 1])


def heat(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    return du[:, 0] - slopes(du[:, 1], x)[:, 1] - 1


def eikonal(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    return du.norm(dim=1) - 1


def cahn(u: Tensor, du: Tensor, x: Tensor) -> Tensor:
    return du[:, 0] - 0.1 * slopes(du[:, 1], x)[:, 1] + u[:, 0] ** 3 - u[:, 0]


def poisson(dimension: int) -> Problem:
    net, x = mlp(dimension, 5, 1), points(8, dimension)
    return Problem(trained(net), lambda: pinn_residual(net, x, torch.ones(8)).square().mean(), net)


def transformed(
    operator: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor], split: bool = False
) -> Problem:
    """Squares of an operator of u at each point, by torch.func within the closure."""
    net, x = mlp(2, 5, 1), points()

    def loss() -> Tensor:
        weights = dict(net.named_parameters())

        def u(point: Tensor) -> Tensor:
            return functional_call(net, weights, (point,)).squeeze()

        inside = vmap(lambda p: operator(u, p))(x) - 1
        return inside.square().mean() + net(x[:3]).square().mean()

    return Problem(trained(net), loss, net)


def forward_slope(u: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
    return jvp(u, (p,), (torch.tensor([1.0, 0.0]).to(p),))[1] + u(p)


def batched_jvp() -> Problem:
    """One forward derivative of the whole batch."""
    net, x = mlp(2, 5, 1), points()
    tangent = torch.tensor([1.0, 0.0]).to(x).expand(x.shape)

    def loss() -> Tensor:
        u, du = jvp(net, (x,), (tangent,))
        return (du - u).square().mean() + net(x[:3]).square().mean()

    return Problem(trained(net), loss, net)


def ritz() -> Problem:
    """The energy of Poisson's equation, which may be negative."""
    net, x = mlp(2, 5, 1), points()

    def loss() -> Tensor:
        inside = x.clone().requires_grad_()
        u = net(inside)
        energy = 0.5 * slopes(u, inside).square().sum(1) - u[:, 0]
        return energy.mean() + 10 * net(x[:4]).square().mean()

    return Problem(trained(net), loss, net)


def weak() -> Problem:
    """A residual integrated against test functions."""
    net, x = mlp(1, 5, 1), torch.linspace(0, 1, 12)[:, None]
    tests = torch.stack([torch.sin(torch.pi * k * x[:, 0]) for k in (1, 2, 3)])

    def loss() -> Tensor:
        inside = x.clone().requires_grad_()
        du = slopes(net(inside), inside)[:, 0]
        return ((tests @ (du - 1)) / 12).square().sum() + net(x[:1]).square().mean()

    return Problem(trained(net), loss, net)


def inverse() -> Problem:
    """A diffusivity that is found together with the solution."""
    net, x, k = mlp(1, 5, 1), points(8, 1), nn.Parameter(torch.tensor(0.5))
    data = torch.sin(3 * x)

    def loss() -> Tensor:
        inside = x.clone().requires_grad_()
        u = net(inside)
        r = k * slopes(slopes(u, inside), inside) + u
        return r.square().mean() + (u - data).square().mean()

    return Problem([k, *trained(net)], loss, net)


def learned_weights() -> Problem:
    """Two losses weighted by learned variances."""
    net, x, s = mlp(1, 5, 1), points(8, 1), nn.Parameter(torch.zeros(2))

    def loss() -> Tensor:
        inside = x.clone().requires_grad_()
        u = net(inside)
        inner = (slopes(u, inside) + u).square().mean()
        return (-s[0]).exp() * inner + (-s[1]).exp() * (net(x[:2]) - 1).square().mean() + s.sum()

    return Problem([s, *trained(net)], loss, net)


def stencil() -> Problem:
    """Derivatives by differences on a grid."""
    net, x = mlp(1, 6, 1), torch.linspace(0, 1, 12)[:, None]

    def loss() -> Tensor:
        u = net(x)[:, 0]
        second = (u.roll(1) - 2 * u + u.roll(-1))[1:-1] / 0.1
        return (second + 1).square().mean() + u[[0, -1]].square().sum()

    return Problem(trained(net), loss, net)


def hard_boundary() -> Problem:
    """A solution that satisfies the boundary condition by construction."""
    net, x = mlp(1, 5, 1), points(8, 1)

    def loss() -> Tensor:
        inside = x.clone().requires_grad_()
        u = inside * (1 - inside) * net(inside)
        return (slopes(slopes(u, inside), inside) + 1).square().mean()

    return Problem(trained(net), loss, net)


def ensemble() -> Problem:
    """Several networks at once, by vmap over stacked weights."""
    shapes = [(3, 4, 2), (3, 4), (3, 4), (3,)]
    params = [nn.Parameter(0.5 * randn(*shape, seed=i)) for i, shape in enumerate(shapes)]
    x, y = randn(6, 2, seed=7), randn(6, seed=8)

    def net(w: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.tanh(x @ w.T + b) @ c + d

    return Problem(list(params), lambda: (vmap(net)(*params) - y).square().mean())


CASES = [
    Case("Poisson in one dimension", lambda: poisson(1), quick=True),
    Case("Poisson in two dimensions", lambda: poisson(2)),
    Case("Burgers", lambda: nested(burgers)),
    Case("wave equation", lambda: nested(wave)),
    Case("heat equation", lambda: nested(heat, boundary=10.0)),
    Case("eikonal equation", lambda: nested(eikonal)),
    Case("Allen-Cahn equation", lambda: nested(cahn)),
    Case("vmap of grad", lambda: transformed(lambda u, p: grad(u)(p).sum() + u(p))),
    Case(
        "vmap of jacrev of jacrev", lambda: transformed(lambda u, p: jacrev(jacrev(u))(p).trace())
    ),
    Case("vmap of hessian", lambda: transformed(lambda u, p: hessian(u)(p).trace())),
    Case("vmap of jacfwd", lambda: transformed(lambda u, p: jacfwd(u)(p).sum())),
    Case("vmap of jvp", lambda: transformed(forward_slope)),
    Case("jvp of a batch", batched_jvp),
    Case("deep Ritz", ritz),
    Case("weak form", weak),
    Case("inverse problem", inverse),
    Case("learned weights of two losses", learned_weights, path=None),
    Case("differences on a grid", stencil),
    Case("boundary by construction", hard_boundary),
    Case("ensemble by vmap", ensemble),
]
