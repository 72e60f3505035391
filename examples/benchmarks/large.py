"""Problems of many rows and many parameters: error against time and steps, beside L-BFGS.

    python -m examples.benchmarks.large [--problem burgers] [--seconds 70] [--threads 2]

Double precision but where a problem says otherwise. Both contenders run in turn in the same
process, with their defaults (L-BFGS with a strong Wolfe search, twenty iterations a step and a
history of 100); the evaluation of the error is not counted. The last line is the ratio of errors.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from torch_newton import RegNewton


@dataclass(frozen=True)
class Problem:
    """A network, its loss and its error.

    Attributes:
        params: of the network.
        loss: of the present points.
        error: against the exact solution, relative or absolute as the problem says.
        redraw: draws the points of the next step; None where they stay.
    """

    params: list[nn.Parameter]
    loss: Callable[[], Tensor]
    error: Callable[[], float]
    redraw: Callable[[], None] | None = None


def network(*widths: int) -> nn.Sequential:
    """A tanh network."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@cache
def burgers_solution(viscosity: float) -> tuple[Tensor, Tensor]:
    """u(t, x) on a grid by the formula of Cole and Hopf, with 80 Gauss-Hermite nodes."""
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    t = np.linspace(0.01, 1, 50)[:, None, None]
    x = np.linspace(-1, 1, 101)[None, :, None]
    y = x - nodes * np.sqrt(4 * viscosity * t)
    kernel = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * viscosity))
    u = -(np.sin(np.pi * y) * kernel).sum(-1) / kernel.sum(-1)
    grid = np.stack(np.broadcast_arrays(t[:, :, 0], x[:, :, 0]), -1)
    return torch.from_numpy(grid.reshape(-1, 2)), torch.from_numpy(u.reshape(-1, 1))


def burgers() -> Problem:
    """u_t + u u_x = 0.01/pi u_xx at 10,000 points, 256 initial and 200 boundary ones; 4 x 50.

    P = 7,851; the error is relative, in L2.
    """
    viscosity = 0.01 / math.pi
    net = network(2, 50, 50, 50, 50, 1)
    inside = torch.stack([torch.rand(10_000), 2 * torch.rand(10_000) - 1], 1)
    begin = torch.stack([torch.zeros(256), 2 * torch.rand(256) - 1], 1)
    edge = torch.stack([torch.rand(200), torch.arange(200) % 2 * 2.0 - 1], 1)

    def loss() -> Tensor:
        x = inside.clone().requires_grad_()
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope[:, 1].sum(), x, create_graph=True)
        residual = slope[:, :1] + u * slope[:, 1:] - viscosity * second[:, 1:]
        initial = net(begin) + torch.sin(torch.pi * begin[:, 1:])
        return residual.square().mean() + initial.square().mean() + net(edge).square().mean()

    def error() -> float:
        points, u = (tensor.to(inside) for tensor in burgers_solution(viscosity))
        with torch.no_grad():
            return float((net(points) - u).norm() / u.norm())

    return Problem(list(net.parameters()), loss, error)


def poisson5() -> Problem:
    """-Laplace u = f in five variables, 3,000 points and 500 of the boundary drawn at each step.

    P = 10,065; u is the sum of cos(pi x_i), and the error the root mean square (`records`).
    """
    net, points = network(5, 64, 64, 48, 48, 1), {}
    test = torch.rand(5000, 5)

    def exact(x: Tensor) -> Tensor:
        return torch.cos(torch.pi * x).sum(1, keepdim=True)

    def redraw() -> None:
        edge = torch.rand(500, 5)
        edge[torch.arange(500), torch.randint(5, (500,))] = torch.randint(2, (500,)).to(edge)
        points.update(inside=torch.rand(3000, 5), edge=edge)

    def loss() -> Tensor:
        x = points["inside"].clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        second = [
            torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i : i + 1]
            for i in range(5)
        ]
        residual = torch.stack(second).sum(0) + torch.pi**2 * exact(x.detach())
        boundary = net(points["edge"]) - exact(points["edge"])
        return (residual.square().mean() + boundary.square().mean()) / 2

    def error() -> float:
        with torch.no_grad():
            return float((net(test) - exact(test)).square().mean().sqrt())

    redraw()
    return Problem(list(net.parameters()), loss, error, redraw)


PROBLEMS: dict[str, Callable[[], Problem]] = {"burgers": burgers, "poisson5": poisson5}
CONTENDERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "RegNewton": RegNewton,
    "L-BFGS": lambda params: torch.optim.LBFGS(
        params, history_size=100, line_search_fn="strong_wolfe", max_iter=20
    ),
}


def run(
    problem: Problem, optimizer: torch.optim.Optimizer, seconds: float
) -> Iterator[tuple[int, float, float, float]]:
    """Steps so far, their seconds, the loss before the last, and the error, at each step."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = problem.loss()
        value.backward()
        return value

    spent, step = 0.0, 0
    while spent < seconds:
        begin, step = time.perf_counter(), step + 1
        if problem.redraw is not None and step > 1:
            problem.redraw()
        loss = float(optimizer.step(closure).detach())
        spent += time.perf_counter() - begin
        yield step, spent, loss, problem.error()


def note(optimizer: torch.optim.Optimizer) -> str:
    """What a step of ours says of itself."""
    last = optimizer.last_step if isinstance(optimizer, RegNewton) else None
    if last is None:
        return ""
    return f"{last.path.name} {last.system.name}, {last.cg_iterations} iterations, rank {last.rank}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, default="burgers")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seconds", type=float, default=70.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=10, metavar="STEPS", help="print so often")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    errors = {}
    for name in options.contenders:
        torch.manual_seed(options.seed)
        problem = PROBLEMS[options.problem]()
        optimizer = CONTENDERS[name](problem.params)
        found = (0, 0.0, math.nan, math.nan)
        for found in run(problem, optimizer, options.seconds):
            if found[0] % options.every == 0:
                report(name, found, note(optimizer))
        report(name, found, "the end")
        errors[name] = found[3]
    if len(errors) > 1:
        first, *others = errors
        for other in others:
            print(f"error of {other} over that of {first}: {errors[other] / errors[first]:.3g}")


def report(name: str, found: tuple[int, float, float, float], remark: str) -> None:
    step, spent, loss, error = found
    print(
        f"{name}: {step} steps, {spent:.1f} s: loss {loss:.2e}, error {error:.2e}  {remark}",
        flush=True,
    )


if __name__ == "__main__":
    main()
