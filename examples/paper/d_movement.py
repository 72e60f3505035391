"""How far parameters move, against width.

python -m examples.paper d
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from torch_newton.nn import ShallowNetwork

from .problems import fitted_slope, geometric_mean, newton, paper_damping, width_study
from .report import LOOKS, REFERENCE, Result, near

TITLE = "Movement of a unit's parameters against width"
SETTINGS = ((0.52, 1.0), (0.75, 2.0))
"""beta and gamma: large enough a damping for a definite Hessian at every width."""
WIDTHS = (256, 1024, 4096, 16384)


def units(net: ShallowNetwork) -> Tensor:
    """(c_i, w_i, eta_i), a row for each unit."""
    with torch.no_grad():
        parts = [net.output.weight.T, net.hidden.weight, net.hidden.bias[:, None]]
        return torch.cat(parts, 1)


def movement(
    width: int, beta: float, gamma: float, seed: int, steps: int = 10
) -> tuple[float, float]:
    """max_i |z_i(0)|, the first step's move of a unit, and max_i |theta_i(10) - theta_i(0)|."""
    problem = width_study()
    net = problem.network(width, beta, seed)
    points: list[Tensor] = []
    newton(
        net,
        problem,
        steps,
        lambda t: points.append(units(net)),
        damping=paper_damping(gamma, width, beta),
    )
    first, total = points[1] - points[0], points[-1] - points[0]
    return float(first.norm(dim=1).max()), float(total.norm(dim=1).max())


def against_width(
    beta: float, gamma: float, seeds: range = range(5)
) -> tuple[list[float], list[float]]:
    """The two, geometric means over seeds, for each width."""
    runs = [[movement(width, beta, gamma, seed) for seed in seeds] for width in WIDTHS]
    first = [geometric_mean([a for a, _ in row]) for row in runs]
    return first, [geometric_mean([b for _, b in row]) for row in runs]


def measure() -> Result:
    claims = []
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.1), sharey=True)
    for axis, (beta, gamma) in zip(axes, SETTINGS, strict=True):
        first, total = against_width(beta, gamma)
        for text, values, look in (
            ("first update", first, LOOKS[0]),
            ("move over 10 steps", total, LOOKS[3]),
        ):
            claims.append(
                near(
                    f"β = {beta}, γ = {gamma:g}: slope of the largest unit's {text}: −(1 − β)",
                    fitted_slope(WIDTHS, values),
                    -(1 - beta),
                    0.08,
                )
            )
            axis.loglog(WIDTHS, values, label=f"largest unit's {text}", **look)
        law = [1.4 * total[0] * (width / WIDTHS[0]) ** -(1 - beta) for width in WIDTHS]
        axis.loglog(WIDTHS, law, label="$N^{-(1-\\beta)}$", **REFERENCE)
        axis.set(xlabel="width $N$", title=f"$\\beta$ = {beta}, $\\gamma$ = {gamma:g}")
        axis.legend()
    axes[0].set_ylabel("Euclidean length")
    return Result(claims, figure)
