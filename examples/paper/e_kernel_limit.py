"""How the Newton tangent kernel of finite width approaches its limit.

python -m examples.paper e
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch

from torch_newton.limit import limit_kernel, newton_kernel

from .problems import (
    fitted_slope,
    geometric_mean,
    newton,
    newton_kernel_at,
    paper_damping,
    width_study,
)
from .report import LOOKS, REFERENCE, Claim, Result, near

TITLE = "NNTK of finite width to its limit"
BETA = 0.52
WIDTHS = (64, 256, 1024, 4096, 16384)
SEEDS = range(5)


def kernel_error(width: int, gamma: float, curvature: str, seed: int) -> float:
    """Relative Frobenius distance of the NNTK at the start from the limit's."""
    problem = width_study()
    exact = newton_kernel(limit_kernel(problem.x), gamma)
    net = problem.network(width, BETA, seed)
    damping = paper_damping(gamma, width, BETA)
    finite = newton_kernel_at(net, problem, damping, curvature)
    norm = torch.linalg.matrix_norm
    return float(norm(finite - exact) / norm(exact))


def errors(
    gamma: float, curvature: str, widths: tuple[int, ...] = WIDTHS, seeds: range = SEEDS
) -> list[float]:
    """Geometric means over seeds, for each width."""
    return [
        geometric_mean([kernel_error(width, gamma, curvature, seed) for seed in seeds])
        for width in widths
    ]


def one_step(gamma: float, width: int, seed: int) -> tuple[float, float]:
    """|f_1 - y| / |y| after a Newton step with alpha = 1, and by the limit kernel."""
    problem = width_study()
    net = problem.network(width, BETA, seed)
    start = problem.residual(net)
    K = newton_kernel(limit_kernel(problem.x), gamma)
    newton(net, problem, 1, damping=paper_damping(gamma, width, BETA))
    size = problem.y.norm()
    return float(problem.residual(net).norm() / size), float((start - K @ start).norm() / size)


def measure() -> Result:
    exact = errors(1.0, "hessian", WIDTHS)
    forms = {gamma: errors(gamma, "gauss_newton") for gamma in (1.0, 1e-2, 1e-4)}
    slope = fitted_slope(WIDTHS[1:], exact[1:])
    claims = [
        Claim("true Hessian, γ = 1: slope", f"{slope:.2f}", "<= -0.35", slope <= -0.35),
        Claim(
            "true Hessian, γ = 1: error at N = 16384",
            f"{exact[-1]:.4f}",
            "< 0.01",
            exact[-1] < 0.01,
        ),
    ]
    claims += [
        near(f"Gauss-Newton form, γ = {gamma:g}: slope", fitted_slope(WIDTHS, values), -0.5, 0.1)
        for gamma, values in forms.items()
    ]
    pairs = [one_step(0.1, 10_000, seed) for seed in range(3)]
    worst = max(abs(a / b - 1) for a, b in pairs)
    claims.append(
        Claim(
            "one Newton step, N = 10⁴, γ = 0.1: |f₁ − y|/|y|, worst of 3 seeds against the limit",
            f"{pairs[0][0]:.3f} / {pairs[0][1]:.3f}, {100 * worst:.1f} %",
            "2 %",
            worst < 0.02,
        )
    )
    moderate = errors(0.1, "hessian", WIDTHS[:-1], range(2))
    small = errors(1e-2, "hessian", WIDTHS[:-1], range(2))
    claims.append(
        Claim(
            "true Hessian, γ = 0.01: no convergence at N <= 4096 (damping below ‖S‖)",
            f"{small[0]:.2f} to {small[-1]:.2f}",
            "> 0.1 throughout",
            min(small) > 0.1,
        )
    )

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1), sharey=True)
    for (gamma, values), look in zip(forms.items(), LOOKS, strict=False):
        left.loglog(WIDTHS, values, label=f"$\\gamma$ = {gamma:g}", **look)
    right.loglog(WIDTHS, exact, label="$\\gamma$ = 1", **LOOKS[0])
    right.loglog(WIDTHS[:-1], moderate, label="$\\gamma$ = 0.1", **LOOKS[3])
    right.loglog(WIDTHS[:-1], small, label="$\\gamma$ = 0.01", **LOOKS[4])
    for axis, title in ((left, "Gauss-Newton form"), (right, "true Hessian")):
        law = [0.04 * (width / WIDTHS[0]) ** -0.5 for width in WIDTHS]
        axis.loglog(WIDTHS, law, label="$N^{-1/2}$", **REFERENCE)
        axis.set(xlabel="width $N$", title=title)
        axis.legend()
    left.set_ylabel("relative error of the NNTK")
    return Result(claims, figure)
