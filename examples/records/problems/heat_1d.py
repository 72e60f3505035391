"""The heat equation in one dimension, 900 + 120 points drawn once.

Published: kfac-pinns-experiments (the repository of arXiv 2405.15603), experiment 13.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Milestone, Problem, Published
from .dirichlet import KFAC, MEASURE, heat


def exact(tx: Tensor) -> Tensor:
    t, x = tx[:, 0:1], tx[:, 1:2]
    return torch.exp(-(torch.pi**2) * t / 4) * torch.sin(torch.pi * x)


PROBLEMS = (
    Problem(
        "heat-1d",
        "u_t = u_xx / 4 on [0, 1]^2, u(0, x) = sin(pi x), u = 0 at the walls",
        lambda seed: heat((2, 64, 1), 900, 120, exact, test=9000),
        rows=1020,
        parameters=257,
        measure=MEASURE,
        published=(Published(2.8e-8, "ENGD", KFAC),),
        milestones=(Milestone(1e-6, "ENGD", steps=406, seconds=96),),
    ),
)
