"""Helmholtz' equation with one wave across and four along, periodic by construction.

Published: arXiv 2604.05230, from a transcription of its table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...networks import glorot
from ..derivatives import At
from ..networks import PeriodicInAll
from ..problem import Field, Problem, Published, Training, relative
from ..sampling import in_box

ROWS = 5000
SOURCE = "arXiv 2604.05230"


def exact(x: Tensor) -> Tensor:
    return torch.sin(torch.pi * x[:, 0:1]) * torch.sin(4 * torch.pi * x[:, 1:2])


def residuals(field: Field, x: Tensor) -> tuple[Tensor, ...]:
    at = At(field, x)
    return (at.laplacian() + at.u - (1 - 17 * torch.pi**2) * exact(x),)


def build(seed: int) -> Training:
    net = PeriodicInAll(glorot((4, 30, 30, 30, 30, 1)), torch.pi)
    points, test = in_box(ROWS, (-1.0, -1.0), (1.0, 1.0)), in_box(10_000, (-1.0, -1.0), (1.0, 1.0))
    reference = exact(test)
    return Training(
        net, residuals, (points,), (1.0,), lambda: relative(net, test, reference), exact=exact
    )


PROBLEMS = (
    Problem(
        "helmholtz",
        "lap u + u = q on [-1, 1]^2, periodic, u = sin(pi x) sin(4 pi y)",
        build,
        rows=ROWS,
        parameters=2971,
        measure="relative L2",
        published=(
            Published(2.0e-9, "SPRING", SOURCE, seconds=540),
            Published(3.6e-9, "SSBroyden", SOURCE, seconds=319),
            Published(4.2e-9, "natural gradient", SOURCE, seconds=251),
            Published(3.7e-7, "BFGS", SOURCE),
            Published(4.2e-4, "SOAP", SOURCE),
        ),
        differs="the source's rows are not known to us; 5,000 here",
    ),
)
