"""Losses that differentiate the network in its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev, stack_module_state, vmap
from torch.nn import functional as F

from tests.callbacks.setups.build import Module, X, mlp, train
from tests.callbacks.setups.setup import Setup, Training

POINTS = X[:, :2]


def field() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))


def nested(net: Any, batch: Any) -> Tensor:
    """Poisson's equation by nested calls of autograd.grad, and the boundary."""
    (points,) = batch
    points = points.requires_grad_()
    (slope,) = torch.autograd.grad(net(points).sum(), points, create_graph=True)
    parts = [
        torch.autograd.grad(slope[:, i].sum(), points, create_graph=True)[0][:, i] for i in (0, 1)
    ]
    return (sum(parts) - 1).square().mean() + 10 * net(points.sign()).square().mean()


def by_func(net: Any, batch: Any) -> Tensor:
    """The same by torch.func."""
    (points,) = batch
    u = lambda x: net(x).squeeze()  # noqa: E731
    laplacian = vmap(lambda x: hessian(u)(x).trace())(points)
    return (laplacian - 1).square().mean() + net(points.sign()).square().mean()


def transport(net: Any, batch: Any) -> Tensor:
    """u_t + u u_x = 0 by a Jacobian, and the start."""
    (points,) = batch
    weights = dict(net.named_parameters())
    u = lambda x: functional_call(net, weights, (x,)).squeeze()  # noqa: E731
    slope, value = vmap(jacrev(u))(points), net(points)[:, 0]
    start = net(points * torch.tensor([1.0, 0.0]))[:, 0] - points[:, 0].sin()
    return (slope[:, 1] + value * slope[:, 0]).square().mean() + start.square().mean()


def forces(net: Any, batch: Any) -> Tensor:
    """Energies, and the forces that are their gradients."""
    places = batch[0].detach().requires_grad_()
    energy = net(places)
    (force,) = torch.autograd.grad(energy.sum(), places, create_graph=True)
    return F.mse_loss(energy, batch[1]) + (force + batch[0]).square().mean()


class Points(Module):
    """Draws its points itself, at every step, and logs its losses."""

    def training_step(self, batch: Any) -> Any:
        self.calls += 1
        inner = nested(self.net, (torch.rand(5, 2),))
        outer = self.net(torch.eye(2)).square().mean()
        self.log_dict({"inner": inner, "outer": outer})
        return inner + 10 * outer


class Ensemble(nn.Module):
    """Three networks at once, by vmap."""

    def __init__(self) -> None:
        super().__init__()
        nets = [mlp() for _ in range(3)]
        state, self.buffers_of = stack_module_state(nets)
        self.weights = nn.ParameterDict({k.replace(".", "_"): v.detach() for k, v in state.items()})
        self.names, self.base = list(state), [nets[0].to("meta")]

    def forward(self, x: Tensor) -> Tensor:
        weights = {name: self.weights[name.replace(".", "_")] for name in self.names}
        one = lambda w: functional_call(self.base[0], w, (x,))  # noqa: E731
        return vmap(one)(weights).mean(0)


SETUPS = [
    Setup("physics by nested gradients", lambda: train(field(), nested, (POINTS,)), quick=True),
    Setup("physics by torch.func", lambda: train(field(), by_func, (POINTS,)), nan=None,
          quick=True),
    Setup("physics by a jacobian", lambda: train(field(), transport, (POINTS,)), nan=None),
    Setup("points drawn in the step", lambda: Training(Points(field(), None), [0])),
    Setup("points that require a gradient", lambda: train(
        field(), nested, (POINTS.clone().requires_grad_(),))),
    Setup("energies and forces", lambda: train(mlp(), forces)),
    Setup("ensemble by vmap", lambda: train(Ensemble(), lambda net, b: F.mse_loss(net(b[0]), b[1])),
          nan=None),
]  # fmt: skip
