"""Classic test functions in the plane, all with minimum 0.

Starts and forms after More, Garbow and Hillstrom, ACM TOMS 7 (1981), 17-41 (Rosenbrock, Beale)
and Himmelblau, Applied Nonlinear Programming (1972); later seeds move the start by N(0, 0.1^2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..problem import Instance, Problem, Rows


def rosenbrock(x: Tensor) -> Tensor:
    """(10 (x2 - x1^2), 1 - x1), minimum at (1, 1)."""
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def himmelblau(x: Tensor) -> Tensor:
    """(x1^2 + x2 - 11, x1 + x2^2 - 7), four minima."""
    return torch.stack([x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7])


def beale(x: Tensor) -> Tensor:
    """(1.5 - x1 (1 - x2), 2.25 - x1 (1 - x2^2), 2.625 - x1 (1 - x2^3)), minimum at (3, 0.5)."""
    y = torch.stack([1.5 - x[0] * (1 - x[1]), 2.25 - x[0] * (1 - x[1] ** 2)])
    return torch.cat([y, (2.625 - x[0] * (1 - x[1] ** 3)).reshape(1)])


class Residuals(nn.Module):
    """A residual function of one parameter vector, scaled so that the mean of squares is the sum.

    The rows share all parameters and have no inputs of their own.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], start: Tensor) -> None:
        super().__init__()
        self.function = function
        self.x = nn.Parameter(start)

    def forward(self, scale: Tensor) -> Tensor:
        return scale * self.function(self.x)


def sum_of_squares(function: Callable[[Tensor], Tensor], start: Tensor) -> Instance:
    """Loss = sum_m function(x)_m^2."""
    module = Residuals(function, start)
    scale = torch.full((len(function(start)),), len(function(start)) ** 0.5)

    def loss() -> Tensor:
        return (function(module.x) ** 2).sum()

    return Instance(
        params=[module.x],
        loss=loss,
        rows=Rows(module, [scale], per_row=False),
    )


def moved(start: tuple[float, float], seed: int) -> Tensor:
    return torch.tensor(start) + 0.1 * min(seed, 1) * torch.randn(2)


STARTS = {
    "rosenbrock": (rosenbrock, (-1.2, 1.0)),
    "himmelblau": (himmelblau, (0.0, 0.0)),
    "beale": (beale, (1.0, 1.0)),
}

PROBLEMS = [
    Problem(
        name,
        "classic",
        lambda seed, function=function, start=start: sum_of_squares(function, moved(start, seed)),
        targets=(1e-2, 1e-4, 1e-8, 1e-12),
        target=1e-8,
        sizes=frozenset({"short", "full"} if name == "rosenbrock" else {"full"}),
    )
    for name, (function, start) in STARTS.items()
]
