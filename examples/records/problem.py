"""What a problem is: its points, residuals and error, and what was published on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Field = Callable[[Tensor], Tensor]
"""u: points, M x d, to values, M x 1."""

Points = tuple[Tensor, ...]
"""One tensor of points for each term of the loss."""


@dataclass
class Training:
    """A network with what it is trained on: the loss is sum_k w_k mean(r_k^2).

    Attributes:
        net: the network, with what its inputs and outputs are transformed by.
        residuals: r_k of a field at the points, one tensor for each term. It takes any field, so
            that a test can put the exact solution there.
        points: what `residuals` gets after the field.
        weights: w_k.
        error: the problem's error measure at the present parameters.
        draw: draws other points, where the source does so; None where they stay.
        exact: the exact solution, where there is a formula.
    """

    net: nn.Module
    residuals: Callable[..., tuple[Tensor, ...]]
    points: Points
    weights: tuple[float, ...]
    error: Callable[[], float]
    draw: Callable[[], Points] | None = None
    exact: Field | None = None

    def loss(self) -> Tensor:
        terms = self.residuals(self.net, *self.points)
        return torch.stack(
            [w * r.square().mean() for w, r in zip(self.weights, terms, strict=True)]
        ).sum()

    def redraw(self) -> None:
        if self.draw is not None:
            self.points = self.draw()


@dataclass(frozen=True)
class Published:
    """The lowest error that a source reports.

    Attributes:
        error: in the problem's measure.
        method: by what it was reached.
        source: where it stands, an arXiv number or the authors' repository.
        seconds: wall-clock time on the source's hardware; None where it is not stated.
        hardware: as far as the source tells.
        parameters: of the source's network, where that differs from ours or we do not know why.
    """

    error: float
    method: str
    source: str
    seconds: float | None = None
    hardware: str = "GPU"
    parameters: int | None = None


@dataclass(frozen=True)
class Milestone:
    """An error on the way, and the steps and seconds after which a source reports it."""

    error: float
    method: str
    steps: int
    seconds: float | None = None


@dataclass(frozen=True)
class Problem:
    """One line of the table.

    Attributes:
        name: for the command line and the results.
        equation: in one line, with domain and conditions.
        build: seed to network and points, to be called with the default dtype set to `dtype`.
        rows: R, residuals of the loss.
        parameters: P, of the network.
        measure: how the error is measured.
        published: best first; empty where no source has this setting.
        milestones: see `Milestone`.
        dtype: of points and parameters.
        draw_every: steps between two draws of points; 0 where they stay.
        differs: what is not as in the source, or not known to be; empty where nothing is. Such a
            row does not count in the tally.
    """

    name: str
    equation: str
    build: Callable[[int], Training]
    rows: int
    parameters: int
    measure: str
    published: tuple[Published, ...] = ()
    milestones: tuple[Milestone, ...] = field(default=())
    dtype: torch.dtype = torch.float64
    draw_every: int = 0
    differs: str = ""


def relative(field: Field, points: Tensor, reference: Tensor) -> float:
    """|u - reference| / |reference|, Euclidean norms over the points."""
    with torch.no_grad():
        u = field(points).double()
    reference = reference.double()
    return float((u - reference).norm() / reference.norm())


def absolute(field: Field, points: Tensor, reference: Tensor) -> float:
    """The root mean square of u - reference over the points."""
    with torch.no_grad():
        u = field(points).double()
    return float((u - reference.double()).square().mean().sqrt())
