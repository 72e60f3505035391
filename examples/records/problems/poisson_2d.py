"""Poisson's equation on the square, 900 + 120 points drawn once.

Published: kfac-pinns-experiments (the repository of arXiv 2405.15603), experiments 9 and 15. The
relative error would be twice the absolute one, whose unit is |u| = 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Milestone, Problem, Published, Training
from .dirichlet import KFAC, MEASURE, poisson

EQUATION = "-lap u = 2 pi^2 sin(pi x) sin(pi y) on [0, 1]^2, u = 0 on the faces"


def exact(x: Tensor) -> Tensor:
    return torch.sin(torch.pi * x).prod(dim=1, keepdim=True)


def build(*widths: int) -> Training:
    return poisson(widths, 900, 120, exact, lambda x: 2 * torch.pi**2 * exact(x), test=9000)


PROBLEMS = (
    Problem(
        "poisson-2d",
        EQUATION,
        lambda seed: build(2, 64, 1),
        rows=1020,
        parameters=257,
        measure=MEASURE,
        published=(
            Published(6.1e-8, "ENGD", KFAC, seconds=468),
            Published(9.4e-5, "Adam", KFAC),
            Published(1.6e-4, "L-BFGS", KFAC),
        ),
        milestones=(Milestone(1e-6, "ENGD", steps=540, seconds=94),),
    ),
    Problem(
        "poisson-2d-deep",
        EQUATION,
        lambda seed: build(2, 64, 64, 48, 48, 1),
        rows=1020,
        parameters=9873,
        measure=MEASURE,
        published=(Published(7.9e-7, "K-FAC, automatic step", KFAC, seconds=1000),),
    ),
)
