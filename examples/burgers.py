r"""Burgers' equation for a network to solve, and its exact solution.

    u_t + u u_x = (0.01 / pi) u_xx,   u(0, x) = -sin(pi x),   u(t, -1) = u(t, 1) = 0

for t in [0, 1] and x in [-1, 1]: a wave that steepens into a front of a hundredth's width at x = 0.
It is the equation of Raissi, Perdikaris and Karniadakis (J. Comput. Phys. 378, 2019).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

VISCOSITY = 0.01 / math.pi
"""Of the equation, as in the paper."""

NODES = 200
"""Of the quadrature of `exact`, which with 100, 200 and 300 gives the same to 2e-15."""


def exact(t: Tensor, x: Tensor) -> Tensor:
    r"""The solution at times t and places x, M entries each, to rounding.

    By the transformation of Cole (1951) and Hopf (1950) it is a ratio of two Gaussian integrals,

        u(t, x) = -E[sin(pi y) f(y)] / E[f(y)],   f(y) = exp(-cos(pi y) / (2 pi nu)),

    with y normal around x with variance 2 nu t, which Gauss-Hermite quadrature computes.
    """
    nodes, weights = np.polynomial.hermite.hermgauss(NODES)
    y = x[:, None] - 2 * (VISCOSITY * t).sqrt()[:, None] * torch.from_numpy(nodes)
    exponent = -(math.pi * y).cos() / (2 * math.pi * VISCOSITY)
    # The largest exponent is taken out of numerator and denominator, which could overflow.
    f = (exponent - exponent.amax(1, keepdim=True)).exp() * torch.from_numpy(weights)
    return -((math.pi * y).sin() * f).sum(1) / f.sum(1)


class Solution(nn.Module):
    """u(t, x) = -sin(pi x) + t (1 - x^2) net(t, x), which meets both conditions whatever net is.

    Args:
        width: of each of three hidden layers.
    """

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (2, width, width):
            layers += [nn.Linear(inputs, width), nn.Tanh()]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1)).double()

    def forward(self, points: Tensor) -> Tensor:
        """u at M points (t, x), M x 2; the result is M x 1."""
        t, x = points[:, :1], points[:, 1:]
        return -(math.pi * x).sin() + t * (1 - x**2) * self.net(points)


def collocation(count: int = 2000) -> Tensor:
    """Points (t, x), `count` x 2, where the equation shall hold: Sobol's, denser towards x = 0.

    Uniform points are too far apart to see the front: their loss falls to 1e-8 and leaves an
    error of 1e-2.
    """
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(count).double()
    t, x = points[:, 0], 2 * points[:, 1] - 1
    return torch.stack([t, x**3], 1).requires_grad_()


def grid() -> Tensor:
    """The 50 x 201 points (t, x) at which the error is measured, t from 0.02 to 1."""
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)
    return torch.cartesian_prod(t, x)


def loss(solution: nn.Module, points: Tensor) -> Tensor:
    """The mean square of u_t + u u_x - nu u_xx, by ordinary nested differentiation."""
    u = solution(points)
    (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(slope[:, 1].sum(), points, create_graph=True)
    u_t, u_x, u_xx = slope[:, :1], slope[:, 1:], second[:, 1:]
    return (u_t + u * u_x - VISCOSITY * u_xx).square().mean()
