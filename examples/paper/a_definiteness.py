"""The damping gamma N^(1 - 2 beta) and the definiteness of the regularized Hessian.

python -m examples.paper a
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

from torch_newton import WidthScaled

from .problems import (
    fitted_slope,
    geometric_mean,
    indefinite_norm,
    kernel,
    lowest_eigenvalue,
    newton,
    paper_damping,
    width_study,
)
from .report import LOOKS, REFERENCE, Claim, Result, near

TITLE = "Definiteness against width"
BETA, GAMMA, ROWS = 0.52, 0.1, 32
WIDTHS = (64, 256, 1024, 4096)


@dataclass(frozen=True)
class Run:
    """Newton's method with the paper's damping at one width.

    Attributes:
        margins: the smallest eigenvalue of H + gamma_N I before each step.
        losses: before each step, and after the last.
        flagged: whether the solver reported an indefinite matrix at the first step.
        excess: |S| / gamma_N at the start.
    """

    margins: list[float]
    losses: list[float]
    flagged: bool
    excess: float


def train(width: int, steps: int = 15, seed: int = 0) -> Run:
    problem = width_study(ROWS, frequency=5)
    net = problem.network(width, BETA, seed)
    damping = paper_damping(GAMMA, width, BETA)
    excess = indefinite_norm(net, problem) / damping
    margins: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the indefinite matrix, which is what is looked for
        records = newton(
            net,
            problem,
            steps,
            lambda t: margins.append(lowest_eigenvalue(net, problem) + damping),
            damping=WidthScaled(GAMMA, BETA),
        )
    losses = [record.loss for record in records] + [records[-1].loss_after]
    return Run(margins, losses, records[0].negative_curvature, excess)


def curvature(width: int, seeds: range = range(3)) -> tuple[float, float]:
    """-lambda_min(H) and lambda_max(G) at the start, geometric means over seeds."""
    problem = width_study(ROWS, frequency=5)
    nets = [problem.network(width, BETA, seed) for seed in seeds]
    lowest = geometric_mean([-lowest_eigenvalue(net, problem) for net in nets])
    return lowest, geometric_mean(
        [float(torch.linalg.matrix_norm(kernel(net, problem), 2)) for net in nets]
    )


def measure() -> Result:
    widths = (*WIDTHS, 16384)
    lowest, largest = zip(*(curvature(width) for width in widths), strict=True)
    runs = {width: train(width) for width in WIDTHS}
    claims = [
        near("slope of −λ_min(H) in N: −β", fitted_slope(widths, lowest), -BETA, 0.07),
        near("slope of λ_max(G): 1 − 2β", fitted_slope(widths, largest), 1 - 2 * BETA, 0.05),
    ]
    for width in (1024, 4096):
        run = runs[width]
        falls = all(b <= a for a, b in itertools.pairwise(run.losses))
        least = min(run.margins)
        claims.append(
            Claim(
                f"N = {width}: min over 15 steps of λ_min(H) + γ_N, loss never rises",
                f"{least:.3f}, {'falls' if falls else 'rises'}",
                "> 0, falls",
                least > 0 and falls,
            )
        )
    claims += [
        Claim(
            f"N = {width}: too narrow, ‖S‖/γ_N > 1 at the start and the solver says so",
            f"{runs[width].excess:.2f}, {'said' if runs[width].flagged else 'not said'}",
            "> 1, said",
            runs[width].excess > 1 and runs[width].flagged,
        )
        for width in (64, 256)
    ]

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1))
    damping = [paper_damping(GAMMA, width, BETA) for width in widths]
    for values, label, look in (
        (largest, "$\\lambda_{max}(J^TJ/M)$", LOOKS[1]),
        (damping, "damping $\\gamma_N$", LOOKS[2]),
        (lowest, "$-\\lambda_{min}(H)$", LOOKS[0]),
    ):
        left.loglog(widths, values, label=label, **look)
    law = [lowest[0] * (width / widths[0]) ** -BETA for width in widths]
    left.loglog(widths, law, label="$N^{-\\beta}$", **REFERENCE)
    left.set(
        xlabel="width $N$",
        ylabel="eigenvalue at the start",
        title="$\\gamma_N$ must exceed $-\\lambda_{min}(H)$",
    )
    left.legend()
    for (width, run), look in zip(runs.items(), LOOKS, strict=False):
        right.plot(run.margins, label=f"$N$ = {width}", **look)
    right.axhline(0, **REFERENCE)
    right.set(
        xlabel="step",
        ylabel="$\\lambda_{min}(H) + \\gamma_N$",
        title="training with the paper's damping",
    )
    right.set_yscale("symlog", linthresh=0.1)
    right.set_xticks(range(0, 16, 3))
    right.legend(loc="lower right")
    return Result(claims, figure)
