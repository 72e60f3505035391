"""Preconditioners for more rows than function space takes, at equal time.

    python -m examples.benchmarks.above_budget [--seconds 30] [--seeds 2] [--threads 1]

5,000 rows of a 3 x 64 tanh regression, and a 2-D Poisson equation of 4,000 points, 3 x 64 too;
float64. Prints the loss reached by RegNewton under each preconditioner, and by L-BFGS. Seconds
are of processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torch_newton import RegNewton
from torch_newton.preconditioners.nystrom import Nystrom
from torch_newton.preconditioners.sampled_rows import SampledRows

Loss = Callable[[], Tensor]


def network(*widths: int) -> nn.Sequential:
    """A tanh network."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def regression() -> tuple[list[nn.Parameter], Loss]:
    """A smooth function of two variables at 5,000 points."""
    net, x = network(2, 64, 64, 64, 1), 2 * torch.rand(5000, 2) - 1
    y = torch.sin(5 * x[:, :1]) * torch.cos(7 * x[:, 1:]) + torch.exp(-10 * x.square().sum(1, True))
    return list(net.parameters()), lambda: nn.functional.mse_loss(net(x), y)


def poisson() -> tuple[list[nn.Parameter], Loss]:
    """-Laplace u = f on the unit square at 3,800 points, u = 0 at 200 points of its boundary."""
    net, inside = network(2, 64, 64, 64, 1), torch.rand(3800, 2)
    edge = torch.rand(200, 2)
    edge[torch.arange(200), torch.arange(200) % 2] = (torch.arange(200) // 2 % 2).double()
    source = 2 * torch.pi**2 * torch.sin(torch.pi * inside).prod(1)

    def loss() -> Tensor:
        x = inside.clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        second = [
            torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)
        ]
        residual = second[0] + second[1] + source
        return residual.square().mean() + 100 * net(edge).square().mean()

    return list(net.parameters()), loss


PROBLEMS = {"regression": regression, "poisson": poisson}
GAUSS_NEWTON = {"curvature": "gauss_newton"}
CONTENDERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "none": lambda p: RegNewton(p, preconditioner=None, **GAUSS_NEWTON),
    "sampled rows, 500": lambda p: RegNewton(p, preconditioner=SampledRows(500), **GAUSS_NEWTON),
    "sampled rows, 1000": lambda p: RegNewton(p, preconditioner=SampledRows(1000), **GAUSS_NEWTON),
    "sampled rows, 2000": lambda p: RegNewton(p, preconditioner=SampledRows(2000), **GAUSS_NEWTON),
    "Nystrom, 20": lambda p: RegNewton(p, preconditioner=Nystrom(20), **GAUSS_NEWTON),
    "Nystrom, 100": lambda p: RegNewton(p, preconditioner=Nystrom(100), **GAUSS_NEWTON),
    "auto": lambda p: RegNewton(p, **GAUSS_NEWTON),
    "L-BFGS": lambda p: torch.optim.LBFGS(
        p, history_size=100, line_search_fn="strong_wolfe", max_iter=20
    ),
}


def reached(problem: str, contender: str, seed: int, seconds: float) -> tuple[float, int]:
    """The loss after `seconds`, and the steps taken."""
    torch.manual_seed(seed)
    params, loss = PROBLEMS[problem]()
    optimizer = CONTENDERS[contender](params)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    begin, steps = time.process_time(), 0
    while time.process_time() - begin < seconds:
        optimizer.step(closure)
        steps += 1
    return float(loss().detach()), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("names", nargs="*", help=", ".join(CONTENDERS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    for problem in PROBLEMS:
        for contender in options.names or CONTENDERS:
            found = [
                reached(problem, contender, seed, options.seconds) for seed in range(options.seeds)
            ]
            losses = ", ".join(f"{loss:.1e} ({steps} steps)" for loss, steps in found)
            print(f"{problem}: {contender}: {losses}", flush=True)


if __name__ == "__main__":
    main()
