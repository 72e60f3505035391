"""Gauss-Newton of more and of fewer parameters than samples.

The statements are those of Cayci (2024), arXiv 2412.14031, in our own words; the damping schedule
is one with the property that the abstract states.

python -m examples.paper h
"""

from __future__ import annotations

import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from torch_newton import DampingContext, KernelMin, Step
from torch_newton.nn import ShallowNetwork

from .problems import Problem, gradient_descent, kernel, newton, residuals
from .report import LOOKS, REFERENCE, Claim, Result

TITLE = "Gauss-Newton and Levenberg-Marquardt"


# More parameters than samples.


def smooth_circle(rows: int = 8) -> Problem:
    """Points on a circle, and smooth targets."""
    t = 2 * math.pi * torch.arange(rows, dtype=torch.float64) / rows
    x = torch.stack([t.cos(), t.sin()], 1)
    return Problem(x, (t.cos() + 0.5 * torch.sin(2 * t))[:, None])


def slowest_rate(factor: float, width: int = 8192, lr: float = 0.1, steps: int = 20) -> float:
    """Decay rate of the kernel's smallest mode per lr times step, lambda = c kappa_min."""
    problem = smooth_circle()
    net = problem.network(width, 0.5, seed=0)
    mode = torch.linalg.eigh(kernel(net, problem))[1][:, 0]
    # A residual along that mode alone: nothing of the others can leak into it.
    target = net(problem.x).detach() + 0.1 * mode[:, None]
    problem = Problem(problem.x, target)
    run = residuals(
        lambda watch: newton(
            net,
            problem,
            steps,
            watch,
            lr=lr,
            damping=KernelMin(factor),
            curvature="gauss_newton",
            scaling=None,
        ),
        net,
        problem,
    )
    shares = (run @ mode).abs()
    return -math.log(float(shares[-1] / shares[0])) / (steps * lr)


def predicted_rate(factor: float, lr: float = 0.1) -> float:
    return -math.log(1 - lr / (1 + factor)) / lr


DISTANCES = (0.3, 0.1, 3e-2, 1e-2, 3e-3)


def near_duplicates(distance: float, pairs: int = 16) -> Problem:
    """Random points in the plane, each with a second one so far away, and smooth targets."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(pairs, 2, generator=random, dtype=torch.float64)
    shift = torch.randn(pairs, 2, generator=random, dtype=torch.float64)
    x = torch.cat([x, x + distance * nn.functional.normalize(shift)])
    return Problem(x, (torch.sin(2 * x[:, 0]) * torch.cos(2 * x[:, 1]))[:, None])


def residual_factor(
    distance: float, damping: str, steps: int = 15, width: int = 4096, seed: int = 0
) -> tuple[float, float]:
    """kappa_min at the start, and the residual's mean factor a step: kernel_min, fixed, gd."""
    problem = near_duplicates(distance)
    net = problem.network(width, 0.5, seed)
    kappa = torch.linalg.eigvalsh(kernel(net, problem))
    start = float(problem.residual(net).norm())
    if damping == "gd":
        gradient_descent(net, problem, steps, 1 / float(kappa[-1]))
    else:
        rule = KernelMin() if damping == "kernel_min" else 0.01 * float(kappa[-1])
        newton(net, problem, steps, damping=rule, curvature="gauss_newton", scaling=None)
    return float(kappa[0]), (float(problem.residual(net).norm()) / start) ** (1 / steps)


# Fewer parameters than samples.


class Reparametrised(nn.Module):
    """A network whose parameters are theta = A phi, phi trained."""

    def __init__(self, net: ShallowNetwork, A: Tensor) -> None:
        super().__init__()
        self.net = [net]  # in a list, so that its parameters are not this module's
        theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
        self.register_buffer("A", A)
        self.phi = nn.Parameter(torch.linalg.solve(A, theta))

    def forward(self, x: Tensor) -> Tensor:
        net = self.net[0]
        pieces = (self.A @ self.phi).split([p.numel() for p in net.parameters()])
        values = {
            name: piece.view_as(p)
            for (name, p), piece in zip(net.named_parameters(), pieces, strict=True)
        }
        outputs: Tensor = torch.func.functional_call(net, values, (x,))
        return outputs


def conditioned(size: int, condition: float, seed: int = 0) -> Tensor:
    """A matrix of this condition number with singular vectors drawn at random."""
    random = torch.Generator().manual_seed(seed)
    U, _ = torch.linalg.qr(torch.randn(size, size, generator=random, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(size, size, generator=random, dtype=torch.float64))
    return (U * torch.logspace(0, -math.log10(condition), size, dtype=torch.float64)) @ V.T


CONDITIONS = (1.0, 1e2, 1e4)


def realisable(
    condition: float, units: int = 4, rows: int = 200, seed: int = 3
) -> tuple[Reparametrised, Problem]:
    """16 parameters, 200 samples, and targets that parameters a little away attain exactly."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, generator=random, dtype=torch.float64)
    net = ShallowNetwork(2, units, 0.5, generator=random, dtype=torch.float64)
    target = net(x).detach()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=random, dtype=p.dtype), alpha=0.02)
    size = sum(p.numel() for p in net.parameters())
    return Reparametrised(net, conditioned(size, condition, seed)), Problem(x, target)


def losses(
    condition: float,
    steps: int,
    lr: float,
    damping: float | Callable[[Step, DampingContext], float] = 0.0,
) -> list[float]:
    """The loss before each step and after the last, Gauss-Newton."""
    model, problem = realisable(condition)
    records = newton(model, problem, steps, lr=lr, damping=damping, curvature="gauss_newton")
    return [record.loss for record in records] + [records[-1].loss_after]


def gap_factor(values: list[float]) -> float:
    """The loss's mean factor a step."""
    return (values[-1] / values[0]) ** (1 / (len(values) - 1))


def damped_factor(condition: float, lr: float = 0.1, steps: int = 40) -> float:
    """The same with lambda = 0.01 lambda_max(G) at every step."""

    def rule(last: Step | None, scale: DampingContext) -> float:
        assert scale.kernel is not None
        return 0.01 * scale.kernel()[1]

    return gap_factor(losses(condition, steps, lr, rule))


def descent_factor(condition: float, steps: int = 40) -> float:
    model, problem = realisable(condition)
    rows = torch.stack(
        [torch.autograd.grad(z, model.phi, retain_graph=True)[0] for z in model(problem.x)[:, 0]]
    )
    lr = len(rows) / float(torch.linalg.matrix_norm(rows, 2)) ** 2
    before = float(problem.loss(model).detach())
    gradient_descent(model, problem, steps, lr)
    return (float(problem.loss(model).detach()) / before) ** (1 / steps)


def measure() -> Result:
    factors = (9.0, 4.0, 1.0, 0.25, 0.04)
    rates = [slowest_rate(factor) for factor in factors]
    claims = [
        Claim(
            f"LM, λ = {factor:g} κ_min: rate of the slowest mode",
            f"{rate:.3f}",
            f"{predicted_rate(factor):.3f}, 3 %",
            abs(rate / predicted_rate(factor) - 1) < 0.03,
        )
        for factor, rate in zip(factors, rates, strict=True)
    ]
    kinds = {
        "kernel_min": "LM, λ = κ_min",
        "fixed": "LM, λ = 0.01 κ_max",
        "gd": "gradient descent",
    }
    curves = {kind: [residual_factor(distance, kind) for distance in DISTANCES] for kind in kinds}
    bounds: dict[str, tuple[str, Callable[[float], bool]]] = {
        "kernel_min": ("<= 0.5 for all", lambda value: value <= 0.5),
        "fixed": (">= 0.7", lambda value: value >= 0.7),
        "gd": (">= 0.9", lambda value: value >= 0.9),
    }
    for kind, curve in curves.items():
        values = [value for _, value in curve]
        expected, holds = bounds[kind]
        claims.append(
            Claim(
                f"near-duplicate inputs, κ_min {curve[0][0]:.0e} to {curve[-1][0]:.0e}, "
                f"{kinds[kind]}: residual's factor a step",
                f"{min(values):.2f} to {max(values):.2f}",
                expected,
                all(holds(value) for value in values),
            )
        )
    for lr in (0.5, 0.1):
        factor = gap_factor(losses(1.0, 20, lr))
        claims.append(
            Claim(
                f"undamped Gauss-Newton, 16 parameters, 200 samples, η = {lr}: loss factor a step",
                f"{factor:.3f}",
                f"(1 − η)² = {(1 - lr) ** 2:.3f}, 2 %",
                abs(factor / (1 - lr) ** 2 - 1) < 0.02,
            )
        )
    trajectories = [losses(condition, 12, 0.5) for condition in CONDITIONS]
    spread = max(
        abs(a / b - 1)
        for other in trajectories[1:]
        for a, b in zip(other, trajectories[0], strict=True)
    )
    claims.append(
        Claim(
            "θ = Aφ, cond(A) = 1, 1e2, 1e4: largest relative difference of the losses",
            f"{spread:.1e}",
            "< 1e-6",
            spread < 1e-6,
        )
    )
    damped = [damped_factor(condition) for condition in CONDITIONS]
    descent = [descent_factor(condition) for condition in CONDITIONS]
    claims.append(
        Claim(
            "the same with λ = 0.01 λ_max: loss factor a step, η = 0.1",
            ", ".join(f"{value:.3f}" for value in damped),
            "rises with cond(A)",
            damped == sorted(damped),
        )
    )

    labels = {
        "kernel_min": "LM, $\\lambda = \\kappa_{min}$",
        "fixed": "LM, $\\lambda = 0.01\\,\\kappa_{max}$",
        "gd": "gradient descent",
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1))
    for (kind, curve), look in zip(curves.items(), LOOKS, strict=False):
        left.semilogx(*zip(*curve, strict=True), label=labels[kind], **look)
    left.set(
        xlabel="smallest kernel eigenvalue $\\kappa_{min}$",
        ylabel="residual's factor a step",
        ylim=(0, 1),
    )
    left.set_title("more parameters than samples")
    left.legend()
    undamped = [gap_factor(losses(condition, 12, 0.1)) for condition in CONDITIONS]
    for values, label, look in (
        (undamped, "Gauss-Newton, $\\eta$ = 0.1", LOOKS[0]),
        (damped, "LM, $\\lambda = 0.01\\,\\lambda_{max}$, $\\eta$ = 0.1", LOOKS[1]),
        (descent, "gradient descent", LOOKS[2]),
    ):
        right.semilogx(CONDITIONS, values, label=label, **look)
    right.axhline(0.81, **REFERENCE)
    right.annotate("$(1 - \\eta)^2$", (1.0, 0.815))
    right.set(
        xlabel="condition of $A$ in $\\theta = A\\varphi$",
        ylabel="loss factor a step",
        ylim=(0.75, 1.02),
    )
    right.set_title("16 parameters, 200 samples")
    right.legend()
    return Result(claims, figure)
