"""Poisson's equation in a hundred dimensions, 100 + 50 points drawn anew at each step.

Published: the repository of arXiv 2505.12149, experiment 4. Solution and source are divided by
33.47, which makes the solution's root mean square one, so that absolute and relative error agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Milestone, Problem, Published
from .dirichlet import ENGD_W, MEASURE, poisson

NORM = 33.47


def exact(x: Tensor) -> Tensor:
    return x.square().sum(dim=1, keepdim=True) / NORM


def source(x: Tensor) -> Tensor:
    return torch.full_like(x[:, :1], -2 * 100 / NORM)


PROBLEMS = (
    Problem(
        "poisson-100d",
        "lap u = 200 / 33.47 on [0, 1]^100, u = |x|^2 / 33.47 on the faces",
        lambda seed: poisson(
            (100, 768, 768, 512, 512, 1),
            100,
            50,
            exact,
            source,
            test=2000,
            drawn_anew=True,
            layer_by_layer=True,
        ),
        rows=150,
        parameters=1_325_057,
        measure=MEASURE,
        published=(Published(3.6e-3, "SPRING", ENGD_W, seconds=7000),),
        milestones=(Milestone(1e-2, "SPRING", steps=1157, seconds=858),),
        draw_every=1,
    ),
)
