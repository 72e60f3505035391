"""The heat equation in four dimensions, points drawn anew at each step: many and few.

Published: the repositories of arXiv 2405.15603 (3,500 rows, experiment 27) and of arXiv 2505.12149
(350 rows).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Milestone, Problem, Published
from .dirichlet import ENGD_W, KFAC, MEASURE, heat

EQUATION = "u_t = lap u / 4 on [0, 1]^5, u = exp(-t) sum sin(2 x_i) at the start and the walls"


def exact(tx: Tensor) -> Tensor:
    return torch.exp(-tx[:, 0:1]) * torch.sin(2 * tx[:, 1:]).sum(dim=1, keepdim=True)


PROBLEMS = (
    Problem(
        "heat-4d",
        EQUATION,
        lambda seed: heat((5, 64, 1), 3000, 500, exact, test=30_000, drawn_anew=True),
        rows=3500,
        parameters=449,
        measure=MEASURE,
        published=(Published(7.4e-7, "ENGD", KFAC, seconds=3000),),
        milestones=(Milestone(1e-5, "ENGD", steps=369, seconds=98),),
        draw_every=1,
    ),
    Problem(
        "heat-4d-few-rows",
        EQUATION,
        lambda seed: heat((5, 256, 256, 128, 128, 1), 300, 50, exact, test=3000, drawn_anew=True),
        rows=350,
        parameters=116_865,
        measure=MEASURE,
        published=(Published(3.8e-5, "SPRING", ENGD_W, seconds=3000),),
        milestones=(Milestone(1e-3, "SPRING", steps=190, seconds=19),),
        draw_every=1,
    ),
)
