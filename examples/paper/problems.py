"""The problems of the theory: data, the network on them, and their curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torch_newton import (
    RegNewton,
    Step,
    extreme_eigenvalues,
    hessian,
)
from torch_newton.limit import newton_kernel
from torch_newton.nn import ShallowNetwork


@dataclass(frozen=True)
class Problem:
    """Inputs x, M x d, targets y, M x 1, and the loss sum_m (f(x_m) - y_m)^2 / (2 M)."""

    x: Tensor
    y: Tensor

    def loss(self, net: nn.Module) -> Tensor:
        return (net(self.x) - self.y).square().sum() / (2 * len(self.y))

    def residual(self, net: nn.Module) -> Tensor:
        """f - y, M entries."""
        with torch.no_grad():
            return (net(self.x) - self.y)[:, 0]

    def network(self, width: int, beta: float, seed: int) -> ShallowNetwork:
        random = torch.Generator().manual_seed(seed)
        return ShallowNetwork(self.x.shape[1], width, beta, generator=random, dtype=torch.float64)


def width_study(rows: int = 16, frequency: int = 20) -> Problem:
    """y = 2 x + 0.4 sin(frequency pi x) on [0, 1], the data of the paper's width study."""
    x = torch.linspace(0, 1, rows, dtype=torch.float64)[:, None]
    return Problem(x, 2 * x + 0.4 * torch.sin(frequency * math.pi * x))


def training() -> Problem:
    """The data of the paper's comparison of training methods, M = 128."""
    x = torch.linspace(0, 1, 128, dtype=torch.float64)[:, None]
    waves = sum(torch.sin(k * math.pi * x) for k in (8, 10, 16))
    return Problem(x, 4 * x + torch.sin(2 * math.pi * x) + 0.8 * waves)


FREQUENCIES = range(1, 7)


def circle(rows: int = 32) -> Problem:
    """Points on a circle of radius 3, y = sum of sin(k t), k = 1..6.

    Turning the circle leaves the limit kernel as it is, so that its modes are the waves.
    """
    t = circle_angles(rows)
    y = sum(torch.sin(k * t) for k in FREQUENCIES)
    return Problem(3 * torch.stack([t.cos(), t.sin()], 1), y[:, None])


def circle_angles(rows: int = 32) -> Tensor:
    return 2 * math.pi * torch.arange(rows, dtype=torch.float64) / rows


def amplitudes(values: Tensor) -> Tensor:
    """The coefficients of sin(k t), k = 1..6, of (..., M) values on the circle."""
    t = circle_angles(values.shape[-1])
    waves = torch.stack([torch.sin(k * t) for k in FREQUENCIES], 1)
    return values @ waves * (2 / len(t))


def paper_damping(gamma: float, width: int, beta: float) -> float:
    return gamma * width ** (1 - 2 * beta)


# Curvature.


def kernel(net: ShallowNetwork, problem: Problem) -> Tensor:
    """B = J J^T / M at finite width."""
    J = unit_rows(net, problem).flatten(0, 1)
    return J.T @ J / len(problem.y)


def unit_rows(net: ShallowNetwork, problem: Problem) -> Tensor:
    """J by units, N x (d + 2) x M: the derivatives of f in (c_i, w_i, eta_i), for tanh."""
    with torch.no_grad():
        tanh = torch.tanh(net.hidden(problem.x)).T
        inner = net.output.weight[0, :, None] * (1 - tanh**2)
        parts = [tanh[:, None], inner[:, None] * problem.x.T, inner[:, None]]
        return net.width**-net.beta * torch.cat(parts, 1)


def indefinite_blocks(net: ShallowNetwork, problem: Problem) -> Tensor:
    """S = H - G, a block for each unit, N x (d + 2) x (d + 2), for tanh."""
    with torch.no_grad():
        rows = torch.cat([problem.x, torch.ones_like(problem.y)], 1)
        tanh = torch.tanh(net.hidden(problem.x))
        weighted = problem.residual(net)[:, None] * (1 - tanh**2) / len(rows)
        a = weighted.T @ rows
        B = torch.einsum("mi,mk,ml->ikl", -2 * tanh * weighted, rows, rows)
        blocks = torch.zeros(net.width, a.shape[1] + 1, a.shape[1] + 1, dtype=a.dtype)
        blocks[:, 0, 1:] = blocks[:, 1:, 0] = a
        blocks[:, 1:, 1:] = net.output.weight[0, :, None, None] * B
        return net.width**-net.beta * blocks


def indefinite_norm(net: ShallowNetwork, problem: Problem) -> float:
    """|S|, its largest eigenvalue in size."""
    return float(torch.linalg.eigvalsh(indefinite_blocks(net, problem)).abs().max())


def newton_kernel_at(
    net: ShallowNetwork, problem: Problem, damping: float, curvature: str = "hessian"
) -> Tensor:
    """J (A + damping I)^-1 J^T / M, with A the Hessian or its Gauss-Newton part.

    Exactly, at any width: with D = S + damping I, which has a block for each unit, and
    K = J D^-1 J^T / M, it is K (I + K)^-1 (Woodbury). `torch_newton.newton_tangent_kernel` does
    the same for any network by linear solves.
    """
    if curvature == "gauss_newton":
        return newton_kernel(kernel(net, problem), damping)
    J, S = unit_rows(net, problem), indefinite_blocks(net, problem)
    D = S + damping * torch.eye(S.shape[1], dtype=S.dtype)
    K = torch.einsum("npm,npk->mk", J, torch.linalg.solve(D, J)) / len(problem.y)
    return torch.linalg.solve(K + torch.eye(len(K), dtype=K.dtype), K)


def lowest_eigenvalue(net: nn.Module, problem: Problem) -> float:
    """The smallest eigenvalue of H, by Lanczos' method: at most a percent above it."""
    H = hessian(problem.loss(net), list(net.parameters()))
    return extreme_eigenvalues(H, tol=3e-3, max_iter=200).smallest.value


# Training.

Watch = Callable[[int], None]


def newton(
    net: nn.Module, problem: Problem, steps: int, watch: Watch | None = None, **options: object
) -> list[Step]:
    """Steps of RegNewton; `watch` is called with t = 0, 1, ... before each and after the last."""
    optimizer = RegNewton(net.parameters(), **options)  # type: ignore[arg-type]
    return [record for record in _iterate(optimizer, net, problem, steps, watch) if record]


def gradient_descent(
    net: nn.Module, problem: Problem, steps: int, lr: float, watch: Watch | None = None
) -> None:
    for _ in _iterate(torch.optim.SGD(net.parameters(), lr=lr), net, problem, steps, watch):
        pass


def _iterate(
    optimizer: torch.optim.Optimizer,
    net: nn.Module,
    problem: Problem,
    steps: int,
    watch: Watch | None,
) -> list[Step | None]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss(net)
        loss.backward()
        return loss

    records: list[Step | None] = []
    for t in range(steps + 1):
        if watch is not None:
            watch(t)
        if t < steps:
            optimizer.step(closure)
            records.append(getattr(optimizer, "last_step", None))
    return records


def residuals(run: Callable[[Watch], object], net: nn.Module, problem: Problem) -> Tensor:
    """y - f at t = 0, 1, ..., (steps + 1) x M."""
    rows: list[Tensor] = []
    run(lambda t: rows.append(-problem.residual(net)))
    return torch.stack(rows)


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope of log y against log x."""
    u = torch.tensor(x, dtype=torch.float64).log()
    v = torch.tensor(y, dtype=torch.float64).log()
    u = u - u.mean()
    return float((u @ v) / (u @ u))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))
