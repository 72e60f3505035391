"""Poisson's equation in five dimensions, 3,000 + 500 points drawn anew at each step.

Published: the repositories of arXiv 2405.15603 (P = 449, experiment 10) and of arXiv 2505.12149
(P = 10,065, experiment 1). The relative error is the absolute one over |u| = 1.58.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Milestone, Problem, Published, Training
from .dirichlet import ENGD_W, KFAC, MEASURE, poisson

EQUATION = "-lap u = pi^2 sum cos(pi x_i) on [0, 1]^5, u = sum cos(pi x_i) on the faces"


def exact(x: Tensor) -> Tensor:
    return torch.cos(torch.pi * x).sum(dim=1, keepdim=True)


def build(*widths: int) -> Training:
    return poisson(
        widths,
        3000,
        500,
        exact,
        lambda x: torch.pi**2 * exact(x),
        test=30_000,
        drawn_anew=True,
    )


PROBLEMS = (
    Problem(
        "poisson-5d",
        EQUATION,
        lambda seed: build(5, 64, 1),
        rows=3500,
        parameters=449,
        measure=MEASURE,
        published=(Published(5.6e-8, "ENGD", KFAC, seconds=3000),),
        milestones=(Milestone(1e-6, "ENGD", steps=335, seconds=80),),
        draw_every=1,
    ),
    Problem(
        "poisson-5d-deep",
        EQUATION,
        lambda seed: build(5, 64, 64, 48, 48, 1),
        rows=3500,
        parameters=10_065,
        measure=MEASURE,
        published=(Published(2.6e-7, "SPRING", ENGD_W, seconds=7000),),
        milestones=(
            Milestone(1e-3, "ENGD-W", steps=61, seconds=81),
            Milestone(1e-5, "SPRING", steps=172),
            Milestone(1e-5, "ENGD-W", steps=252),
        ),
        draw_every=1,
    ),
)
