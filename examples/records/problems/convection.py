"""Convection of a sine, forty radians far. Published: arXiv 2402.01868, transcribed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..derivatives import At
from ..problem import Field, Problem, Published
from .failure_modes import INTERIOR, NNCG, PARAMETERS, START, WALL, evolution

SPEED = 40.0


def exact(tx: Tensor) -> Tensor:
    return torch.sin(tx[:, 1:2] - SPEED * tx[:, 0:1])


def residuals(
    field: Field, inside: Tensor, start: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, ...]:
    at = At(field, inside)
    return (
        at.d(0) + SPEED * at.d(1),
        field(start) - exact(start),
        field(low) - field(high),
    )


PROBLEMS = (
    Problem(
        "convection",
        "u_t + 40 u_x = 0, x in [0, 2 pi] periodic, t in [0, 1], u(0, x) = sin x",
        lambda seed: evolution(residuals, exact, 2 * torch.pi, terms=3),
        rows=INTERIOR + START + WALL,
        parameters=PARAMETERS,
        measure="relative L2",
        published=(Published(1.9e-3, "NNCG after Adam and L-BFGS", NNCG),),
    ),
)
