"""Burgers' equation with nu = 0.01 / pi, whose front is ten times as steep as that of `burgers`.

Start and walls hold by construction, u = -sin(pi x) + t (1 - x^2) net(t, x), and the 10,000 points
are drawn anew where the residual is large (`sampling.by_residual`), as the sources draw them.
Published: arXiv 2405.04230 and 2501.16371, from transcriptions of their tables.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...networks import glorot
from ..networks import Constrained
from ..problem import Field, Points, Problem, Published, Training, relative
from ..sampling import by_residual, grid, in_box
from .burgers import cole_hopf, residual

VISCOSITY = 0.01 / math.pi
ROWS, CANDIDATES = 10_000, 50_000
DRAW_EVERY = 50  # chosen: some ten draws until the published error
EQUATION = "u_t + u u_x = (0.01 / pi) u_xx on [0, 1] x [-1, 1], u(0, x) = -sin(pi x), u = 0 at +-1"


def exact(tx: Tensor) -> Tensor:
    return cole_hopf(tx, VISCOSITY)


def start(tx: Tensor) -> Tensor:
    return -torch.sin(torch.pi * tx[:, 1:2])


def vanishing(tx: Tensor) -> Tensor:
    return tx[:, 0:1] * (1 - tx[:, 1:2] ** 2)


def residuals(field: Field, tx: Tensor) -> tuple[Tensor, ...]:
    return (residual(field, tx, VISCOSITY),)


def build(hidden: int) -> Training:
    net = Constrained(glorot((2, *[20] * hidden, 1)), start, vanishing)

    def draw() -> Points:
        candidates = in_box(CANDIDATES, (0.0, -1.0), (1.0, 1.0))
        return (by_residual(ROWS, candidates, lambda tx: residual(net, tx, VISCOSITY)),)

    points = in_box(ROWS, (0.0, -1.0), (1.0, 1.0))
    test = grid(torch.linspace(0, 1, 33), torch.linspace(-1, 1, 257))
    reference = exact(test)
    return Training(
        net,
        residuals,
        (points,),
        (1.0,),
        lambda: relative(net, test, reference),
        draw,
        exact,
    )


PROBLEMS = (
    Problem(
        "burgers-shock",
        EQUATION,
        lambda seed: build(hidden=4),
        rows=ROWS,
        parameters=1341,
        measure="relative L2",
        published=(
            Published(7.6e-8, "SSBroyden", "arXiv 2405.04230"),
            Published(9.6e-8, "SSBFGS", "arXiv 2405.04230"),
            Published(1.5e-5, "BFGS", "arXiv 2405.04230"),
            Published(2.1e-3, "L-BFGS", "arXiv 2405.04230"),
        ),
        draw_every=DRAW_EVERY,
    ),
    Problem(
        "burgers-shock-deep",
        EQUATION,
        lambda seed: build(hidden=8),
        rows=ROWS,
        parameters=3021,
        measure="relative L2",
        published=(Published(1.6e-8, "SSBroyden", "arXiv 2501.16371", seconds=2878),),
        draw_every=DRAW_EVERY,
    ),
)
