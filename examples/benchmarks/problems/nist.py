"""NIST StRD nonlinear regression: certified parameters judge the digits that a method reaches.

A data set counts as solved where every parameter has 6 correct digits: the largest relative error
over the parameters, 10^-LRE with NIST's log relative error, is at most 1e-6.
https://www.itl.nist.gov/div898/strd/nls/nls_info.shtml
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..problem import Instance, Problem, Rows
from .nist_data import DATASETS

Model = Callable[..., Tensor]
SOLVED = 1e-6


def saturation(b: Tensor, x: Tensor) -> Tensor:
    return b[0] * (1 - torch.exp(-b[1] * x))


def chwirut(b: Tensor, x: Tensor) -> Tensor:
    return torch.exp(-b[0] * x) / (b[1] + b[2] * x)


def lanczos(b: Tensor, x: Tensor) -> Tensor:
    return sum(b[i] * torch.exp(-b[i + 1] * x) for i in (0, 2, 4))


def gauss(b: Tensor, x: Tensor) -> Tensor:
    peaks = sum(b[i] * torch.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5))
    return b[0] * torch.exp(-b[1] * x) + peaks


def cubic_over_cubic(b: Tensor, x: Tensor) -> Tensor:
    above = b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3
    return above / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def enso(b: Tensor, x: Tensor) -> Tensor:
    turn = 2 * math.pi * x
    year = b[1] * torch.cos(turn / 12) + b[2] * torch.sin(turn / 12)
    slow = b[4] * torch.cos(turn / b[3]) + b[5] * torch.sin(turn / b[3])
    fast = b[7] * torch.cos(turn / b[6]) + b[8] * torch.sin(turn / b[6])
    return b[0] + year + slow + fast


def nelson(b: Tensor, time: Tensor, temperature: Tensor) -> Tensor:
    """The model of log y."""
    return b[0] - b[1] * time * torch.exp(-b[2] * temperature)


MODELS: dict[str, Model] = {
    "Misra1a": saturation,
    "BoxBOD": saturation,
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "Kirby2": lambda b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Hahn1": cubic_over_cubic,
    "Thurber": cubic_over_cubic,
    "Nelson": nelson,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * torch.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * torch.exp(-x * b[3]) + b[2] * torch.exp(-x * b[4]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - torch.atan(b[2] / (x - b[3])) / math.pi,
    "ENSO": enso,
    "Rat42": lambda b, x: b[0] / (1 + torch.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + torch.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Eckerle4": lambda b, x: b[0] / b[1] * torch.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
}


class Regression(nn.Module):
    """model(b, x) - y with the parameter vector b."""

    def __init__(self, model: Model, start: Tensor) -> None:
        super().__init__()
        self.model = model
        self.b = nn.Parameter(start)

    def forward(self, y: Tensor, scale: Tensor, *x: Tensor) -> Tensor:
        return scale * (self.model(self.b, *x) - y)


def observations(name: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Response and predictors; Nelson's model is one of the logarithm."""
    y, *x = (torch.tensor(column, dtype=torch.float64) for column in DATASETS[name].columns)
    return (y.log() if name == "Nelson" else y), tuple(x)


def regression(name: str, start: int) -> Instance:
    """Loss = sum of squared residuals, from NIST's start 1 or 2."""
    dataset = DATASETS[name]
    y, x = observations(name)
    module = Regression(MODELS[name], torch.tensor(dataset.starts[start - 1]))
    certified = torch.tensor(dataset.certified, dtype=torch.float64)
    scale = torch.full_like(y, math.sqrt(len(y)))

    def loss() -> Tensor:
        return ((MODELS[name](module.b, *x) - y) ** 2).sum()

    def error() -> float:
        worst = ((module.b.detach() - certified) / certified).abs().max().item()
        return worst if math.isfinite(worst) else math.inf

    return Instance(
        params=[module.b],
        loss=loss,
        rows=Rows(module, [y, scale, *x]),
        error=error,
    )


IN_SHORT = {"Misra1a", "Chwirut2", "DanWood", "Rat42"}

PROBLEMS = [
    Problem(
        f"nist-{name}-{start}",
        "nist",
        lambda seed, name=name, start=start: regression(name, start),
        targets=(1e-2, 1e-4, SOLVED),
        target=SOLVED,
        measure="error",
        sizes=frozenset({"standard", "full"} | ({"short"} if name in IN_SHORT else set())),
        watch_every_call=True,
        seeded=False,
    )
    for name in DATASETS
    for start in (1, 2)
]
