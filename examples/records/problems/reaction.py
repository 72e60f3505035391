"""Logistic growth at every place. Published: arXiv 2402.01868, transcribed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..derivatives import At
from ..problem import Field, Problem, Published
from .failure_modes import INTERIOR, NNCG, PARAMETERS, START, WALL, evolution

RATE = 5.0


def exact(tx: Tensor) -> Tensor:
    """U = h e^(5 t) / (h e^(5 t) + 1 - h), h = exp(-(x - pi)^2 / (2 (pi / 4)^2))."""
    h = torch.exp(-8 * (tx[:, 1:2] / torch.pi - 1) ** 2)
    grown = h * torch.exp(RATE * tx[:, 0:1])
    return grown / (grown + 1 - h)


def residuals(
    field: Field, inside: Tensor, start: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, ...]:
    at = At(field, inside)
    return (
        at.d(0) - RATE * at.u * (1 - at.u),
        field(start) - exact(start),
        field(low) - field(high),
    )


PROBLEMS = (
    Problem(
        "reaction",
        "u_t = 5 u (1 - u), x in [0, 2 pi] periodic, t in [0, 1], u(0, x) = a Gaussian",
        lambda seed: evolution(residuals, exact, 2 * torch.pi, terms=3),
        rows=INTERIOR + START + WALL,
        parameters=PARAMETERS,
        measure="relative L2",
        published=(Published(9.9e-3, "NNCG after Adam and L-BFGS", NNCG),),
    ),
)
