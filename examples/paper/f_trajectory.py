"""Newton's method at finite width against the limit equation.

python -m examples.paper f
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from torch_newton.limit import LimitEquation, limit_kernel

from .problems import circle, fitted_slope, geometric_mean, newton, paper_damping, residuals
from .report import LOOKS, Claim, Result, near

TITLE = "Trajectory to the limit equation"
SETTINGS = ((0.52, 1.0), (0.75, 2.0))
WIDTHS = (256, 1024, 4096, 16384)
STEPS = 10


def trajectories(width: int, beta: float, gamma: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """f_t of the network, and f*_t from the network's own f_0 and from zero, (steps + 1) x M."""
    problem = circle()
    net = problem.network(width, beta, seed)
    y = problem.y[:, 0]
    damping = paper_damping(gamma, width, beta)
    run = residuals(lambda watch: newton(net, problem, STEPS, watch, damping=damping), net, problem)
    f = y - run
    equation = LimitEquation.newton(limit_kernel(problem.x), gamma)
    t = torch.arange(STEPS + 1)
    return f, equation.at_step(t, f[0], y), equation.at_step(t, torch.zeros_like(y), y)


def distances(width: int, beta: float, gamma: float, seed: int) -> tuple[float, float]:
    """max_t RMS(f_t - f*_t) / RMS(y), from the network's f_0 and from zero."""
    f, actual, zero = trajectories(width, beta, gamma, seed)
    size = circle().y.square().mean().sqrt()
    far = [(f - other).square().mean(1).sqrt().max() / size for other in (actual, zero)]
    return float(far[0]), float(far[1])


def against_width(
    beta: float, gamma: float, seeds: range = range(3)
) -> tuple[list[float], list[float]]:
    """Both distances, geometric means over seeds, for each width."""
    runs = [[distances(width, beta, gamma, seed) for seed in seeds] for width in WIDTHS]
    actual = [geometric_mean([a for a, _ in row]) for row in runs]
    return actual, [geometric_mean([b for _, b in row]) for row in runs]


def start_size(beta: float, widths: tuple[int, ...], seeds: range = range(60)) -> list[float]:
    """Mean over seeds of the mean |f_0|, for each width."""
    problem = circle()
    return [
        sum(
            float(problem.network(width, beta, seed)(problem.x).detach().abs().mean())
            for seed in seeds
        )
        / len(seeds)
        for width in widths
    ]


def measure() -> Result:
    claims = []
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1))
    for (beta, gamma), looks in zip(SETTINGS, (LOOKS[0:4:2], LOOKS[1:4:2]), strict=True):
        actual, zero = against_width(beta, gamma)
        slope, law = fitted_slope(WIDTHS, actual), -(1 - beta)
        claims.append(
            Claim(
                f"β = {beta}: distance to the limit equation with the network's f₀, slope",
                f"{slope:.2f}, {actual[-1]:.4f} at N = 16384",
                "between −0.5 and −0.2, < 0.02",
                -0.55 <= slope <= -0.2 and actual[-1] < 0.02,
            )
        )
        if beta == 0.75:  # at 0.52 the rate is N^-0.02, which no run can show
            text = "β = 0.75: the same with f*₀ = 0, slope −min(1 − β, β − ½)"
            claims.append(near(text, fitted_slope(WIDTHS, zero), max(law, 0.5 - beta), 0.1))
        left.loglog(WIDTHS, actual, label=f"$\\beta$ = {beta}, network's $f_0$", **looks[0])
        left.loglog(WIDTHS, zero, label=f"$\\beta$ = {beta}, $f^*_0 = 0$", **looks[1])
    narrow = (64, 256, 1024, 4096)
    for beta in (0.5, 0.6, 0.75, 0.9):
        size = fitted_slope(narrow, start_size(beta, narrow))
        claims.append(near(f"β = {beta}: mean |f₀|, slope ½ − β", size, 0.5 - beta, 0.04))
    left.set(xlabel="width $N$", ylabel="largest over 10 steps, relative", ylim=(2e-3, 4))
    left.set_title("distance to the limit equation")
    left.legend(fontsize=8, ncols=2, loc="upper center")
    y = circle().y[:, 0]
    for width, look in zip(WIDTHS, LOOKS, strict=False):
        f, limit, _ = trajectories(width, *SETTINGS[0], seed=0)
        distance = (f - limit).square().mean(1).sqrt() / y.square().mean().sqrt()
        right.semilogy(range(1, STEPS + 1), distance[1:], label=f"$N$ = {width}", **look)
    right.set(xlabel="step", ylabel="distance, relative", title="$\\beta$ = 0.52, $\\gamma$ = 1")
    right.legend(fontsize=8, ncols=2)
    return Result(claims, figure)
