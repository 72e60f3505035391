"""Burgers' equation with nu = 0.01, periodic: u_t + u u_x = nu u_xx, u(0, x) = -sin(pi x).

Published: DSGNAR (arXiv 2607.02194), authors' repository. Its parameter counts are four above those
of these layers, in all of its networks; what the four are we do not know. Its weight of the
initial condition and its distribution of points are not known to us either: here the weight is
ten, and points are uniform. Not to be mixed with nu = 0.01 / pi (`burgers_shock`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...networks import glorot, siren
from ..derivatives import At
from ..networks import Periodic
from ..problem import Field, Problem, Published, Training, relative
from ..sampling import at_start, grid, in_box

VISCOSITY = 0.01
EQUATION = "u_t + u u_x = 0.01 u_xx, x in [-1, 1] periodic, t in [0, 1], u(0, x) = -sin(pi x)"
SOURCE = "arXiv 2607.02194, authors' repository"


def cole_hopf(tx: Tensor, viscosity: float = VISCOSITY) -> Tensor:
    """The solution by the Cole-Hopf transformation.

        u = -int sin(pi (x - s)) w ds / int w ds,
        log w = -cos(pi (x - s)) / (2 pi nu) - s^2 / (4 nu t)

    (Basdevant et al., Comput. Fluids 14 (1986), 23). With s = z sqrt(4 nu t) the integrands are
    entire in z, and the trapezoidal rule converges faster than geometrically; |z| = 13 leaves out
    less than exp(2 / (2 pi nu) - 169) of the largest, for nu = 0.01 / pi below 1e-29.
    """
    z = torch.linspace(-13, 13, 1601, dtype=tx.dtype)
    y = tx[:, 1:2] - z * torch.sqrt(4 * viscosity * tx[:, 0:1])
    weight = torch.softmax(-torch.cos(torch.pi * y) / (2 * math.pi * viscosity) - z**2, dim=1)
    return -(torch.sin(torch.pi * y) * weight).sum(dim=1, keepdim=True)


def residual(field: Field, tx: Tensor, viscosity: float = VISCOSITY) -> Tensor:
    at = At(field, tx)
    return at.d(0) + at.u * at.d(1) - viscosity * at.d(1, 1)


def build(body: nn.Module, interior: int, initial: int) -> Training:
    net = Periodic(body, torch.pi)
    inside = in_box(interior, (0.0, -1.0), (1.0, 1.0))
    start = at_start(in_box(initial, (-1.0,), (1.0,)))

    def residuals(field: Field, inside: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        return residual(field, inside), field(start) + torch.sin(torch.pi * start[:, 1:2])

    double = torch.float64
    test = grid(torch.linspace(0, 1, 65, dtype=double), torch.linspace(-1, 1, 129, dtype=double))
    reference, points = cole_hopf(test), test.to(inside)
    return Training(
        net,
        residuals,
        (inside, start),
        (1.0, 10.0),
        lambda: relative(net, points, reference),
        exact=cole_hopf,
    )


TANH, SIREN = (3, 20, 20, 20, 20, 1), (3, 40, 40, 40, 40, 1)

BURGERS = Problem(
    "burgers",
    EQUATION,
    lambda seed: build(glorot(TANH), 32_768, 16_384),
    rows=49_152,
    parameters=1361,
    measure="relative L2",
    published=(Published(3.9e-7, "DSGNAR, float32", SOURCE, seconds=15.6, parameters=1365),),
)

PROBLEMS = (
    replace(BURGERS, name="burgers-float32", dtype=torch.float32),
    BURGERS,
    replace(
        BURGERS,
        name="burgers-9216",
        build=lambda seed: build(glorot(TANH), 8192, 1024),
        rows=9216,
        differs="9,216 rows in place of 49,152",
    ),
    Problem(
        "burgers-siren",
        EQUATION,
        lambda seed: build(siren(SIREN, first_frequency=1.0), 16_384, 1024),
        rows=17_408,
        parameters=5121,
        measure="relative L2",
        published=(Published(1.9e-12, "DSGNAR", SOURCE, seconds=144, parameters=5125),),
        differs="the source's rows are not known to us; 17,408 here",
    ),
)
