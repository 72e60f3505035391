"""How fast frequencies are learned: gradient descent against Newton's method.

python -m examples.paper c
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from torch_newton import DampingContext, ResidualFollowing, Step
from torch_newton.limit import LimitEquation, limit_kernel

from .problems import (
    FREQUENCIES,
    amplitudes,
    circle,
    gradient_descent,
    indefinite_norm,
    kernel,
    newton,
    paper_damping,
    residuals,
)
from .report import LOOKS, REFERENCE, Claim, Result

TITLE = "Decay of each frequency"
BETA, WIDTH, WIDE = 0.52, 4096, 65536


def shares(run: Tensor) -> Tensor:
    """|residual amplitude| of sin(k t), k = 1..6, relative to the start, a row for each step."""
    values = amplitudes(run).abs()
    return values / values[0]


def newton_shares(
    steps: int, gamma: float, curvature: str, width: int = WIDTH, seed: int = 0
) -> Tensor:
    problem = circle()
    net = problem.network(width, BETA, seed)
    damping = paper_damping(gamma, width, BETA)
    return shares(
        residuals(
            lambda watch: newton(net, problem, steps, watch, damping=damping, curvature=curvature),
            net,
            problem,
        )
    )


def following_shares(
    steps: int, factor: float = 1.2, exact: bool = True, width: int = WIDTH, seed: int = 0
) -> Tensor:
    """Newton with lambda_t = factor |S_t|, or factor |S_0| RMS(r_t) / RMS(r_0)."""
    problem = circle()
    net = problem.network(width, BETA, seed)

    def current(last: Step | None, scale: DampingContext) -> float:
        return factor * indefinite_norm(net, problem)

    rule = current if exact else ResidualFollowing(factor * indefinite_norm(net, problem))
    return shares(
        residuals(lambda watch: newton(net, problem, steps, watch, damping=rule), net, problem)
    )


def descent_shares(steps: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    problem = circle()
    net = problem.network(width, BETA, seed)
    lr = 1 / float(torch.linalg.eigvalsh(kernel(net, problem))[-1])
    return shares(
        residuals(lambda watch: gradient_descent(net, problem, steps, lr, watch), net, problem)
    )


def limit_shares(equation: LimitEquation, steps: int) -> Tensor:
    """What the limit equation says of the same amplitudes."""
    y = circle().y[:, 0]
    return amplitudes(y - equation.at_step(steps, torch.zeros_like(y), y)).abs()


def rate_ratio(run: Tensor) -> float:
    """Largest over smallest decay rate -log(share) among k = 2..6 at the last step."""
    rates = -run[-1, 1:].log()
    return float(rates.max() / rates.min())


def measure() -> Result:
    B = limit_kernel(circle().x)
    descent = descent_shares(1000)
    damped = newton_shares(5, 0.1, "hessian")
    small = newton_shares(5, 1e-4, "gauss_newton")
    following, proxy = following_shares(20), following_shares(20, exact=False)
    expected = limit_shares(LimitEquation.newton(B, 0.1), 5)
    descent_limit = float(limit_shares(LimitEquation.gradient_descent(B), 100)[5])
    claims = []
    for width, run, slow in (
        (WIDTH, damped, descent),
        (WIDE, newton_shares(5, 0.1, "hessian", WIDE), descent_shares(100, WIDE)),
    ):
        ratio = run[5, 1:] / expected[1:] - 1
        worst = float(ratio.abs().max())
        descended = float(slow[100, 5])
        claims += [
            Claim(
                f"N = {width}: Newton, γ = 0.1, 5 steps: worst of k = 2..6 against the limit",
                f"{100 * worst:.1f} %",
                "5 %",
                worst <= 0.05,
            ),
            Claim(
                f"N = {width}: gradient descent, 100 steps: residual of k = 6",
                f"{descended:.3f}",
                f"limit {descent_limit:.3f}, 10 %",
                abs(descended / descent_limit - 1) < 0.1,
            ),
        ]
    claims += [
        Claim(
            "gradient descent, 100 steps: residual of k = 1",
            f"{float(descent[100, 0]):.3f}",
            "<= 0.01",
            float(descent[100, 0]) <= 0.01,
        ),
        Claim(
            "decay rates of k = 2..6, largest over smallest: Gauss-Newton, γ = 1e-4, 5 steps",
            f"{rate_ratio(small):.2f}",
            "< 1.5",
            rate_ratio(small) < 1.5,
        ),
        Claim(
            "the same: gradient descent, 10 steps",
            f"{rate_ratio(descent[:11]):.2f}",
            "> 6",
            rate_ratio(descent[:11]) > 6,
        ),
        Claim(
            "Newton, λ_t = 1.2‖S_t‖, 20 steps: largest residual",
            f"{float(following[20].max()):.1e}",
            "< 1e-10",
            float(following[20].max()) < 1e-10,
        ),
        Claim(
            "Newton, λ_t following the root of the loss, 20 steps: the same",
            f"{float(proxy[20].max()):.1e}",
            "< 1e-10",
            float(proxy[20].max()) < 1e-10,
        ),
        Claim(
            "gradient descent, 1000 steps: the same",
            f"{float(descent[1000].max()):.1e}",
            "> 1e-5",
            float(descent[1000].max()) > 1e-5,
        ),
    ]

    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), sharey=True)
    titles = (
        "gradient descent",
        "Newton, $\\gamma$ = 0.1",
        "Newton, $\\lambda_t = 1.2\\,\\|S_t\\|$",
    )
    runs = (descent[:1001], newton_shares(20, 0.1, "hessian"), following)
    for axis, title, run in zip(axes, titles, runs, strict=True):
        for k, look in zip(FREQUENCIES, LOOKS, strict=True):
            every = max(1, len(run) // 8)
            axis.semilogy(run[:, k - 1], markevery=every, label=f"$k$ = {k}", **look)
        axis.set(xlabel="step", title=title, ylim=(1e-17, 2))
    equation = LimitEquation.newton(B, 0.1)
    predicted = torch.stack([limit_shares(equation, t) for t in range(21)])
    axes[1].semilogy(predicted[:, 1:], **REFERENCE)
    axes[0].set_ylabel("residual amplitude of $\\sin kt$, relative")
    axes[0].legend(ncols=2, loc="lower left")
    axes[1].annotate("dotted: limit equation", (0.05, 0.05), xycoords="axes fraction")
    return Result(claims, figure)
