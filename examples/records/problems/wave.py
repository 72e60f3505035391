"""A standing wave of two frequencies, at rest at the start.

Published: arXiv 2402.01868, transcribed. DSGNAR's 1.2e-15 (arXiv 2607.02194) is of another network,
and of a wave of four half-periods, and is not compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..derivatives import At
from ..problem import Field, Problem, Published
from .failure_modes import INTERIOR, NNCG, PARAMETERS, START, WALL, evolution

BETA = 5


def exact(tx: Tensor) -> Tensor:
    t, x = torch.pi * tx[:, 0:1], torch.pi * tx[:, 1:2]
    slow = torch.sin(x) * torch.cos(2 * t)
    return slow + 0.5 * torch.sin(BETA * x) * torch.cos(2 * BETA * t)


def residuals(
    field: Field, inside: Tensor, start: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, ...]:
    at, first = At(field, inside), At(field, start)
    return (
        at.d(0, 0) - 4 * at.d(1, 1),
        first.u - exact(start),
        first.d(0),
        field(low),
        field(high),
    )


PROBLEMS = (
    Problem(
        "wave",
        "u_tt = 4 u_xx on [0, 1]^2, u = 0 at the walls, at rest with "
        "u(0, x) = sin(pi x) + sin(5 pi x) / 2",
        lambda seed: evolution(residuals, exact, 1.0, terms=5),
        rows=INTERIOR + 2 * START + 2 * WALL,
        parameters=PARAMETERS,
        measure="relative L2",
        published=(Published(1.3e-2, "NNCG after Adam and L-BFGS", NNCG),),
    ),
)
