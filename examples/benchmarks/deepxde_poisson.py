"""2-D Poisson in DeepXDE, unmodified: its own model, data and closure, with RegNewton to train.

    python -m examples.benchmarks.deepxde_poisson [--seed 0] [--steps 150]

u_xx + u_yy = -2 pi^2 sin(pi x) sin(pi y) on the unit square, zero on its boundary; 300 points
inside and 80 on the boundary, two hidden layers of 32 tanh units, double precision. Prints the
relative L2 error on 2,000 other points every 10 steps, and which path the steps took.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

os.environ["DDE_BACKEND"] = "pytorch"


@dataclass(frozen=True)
class Linearization:
    """Where training stands after some steps."""

    step: int
    seconds: float
    loss: float
    error: float
    path: str


def exact(x: Any) -> Any:
    """The solution."""
    return np.sin(np.pi * x[:, :1]) * np.sin(np.pi * x[:, 1:])


def readings(seed: int, steps: int, every: int = 10, **options: Any) -> Iterator[Linearization]:
    """Train for `steps` steps of RegNewton(**options), and look in between."""
    import deepxde as dde

    from torch_newton import RegNewton

    dde.config.set_default_float("float64")
    dde.config.set_random_seed(seed)

    def equation(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        second = [dde.grad.hessian(u, x, i=i, j=i) for i in range(2)]
        source = torch.sin(torch.pi * x[:, :1]) * torch.sin(torch.pi * x[:, 1:])
        return second[0] + second[1] + 2 * torch.pi**2 * source

    square = dde.geometry.Rectangle([0, 0], [1, 1])
    boundary = dde.icbc.DirichletBC(square, lambda x: 0, lambda _, on_boundary: on_boundary)
    data = dde.data.PDE(square, equation, boundary, num_domain=300, num_boundary=80)
    model = dde.Model(data, dde.nn.FNN([2, 32, 32, 1], "tanh", "Glorot normal"))
    optimizer = RegNewton(model.net.parameters(), **options)
    model.compile(optimizer, loss_weights=[1, 100], verbose=0)
    points = square.random_points(2000)
    truth, begin = exact(points), time.perf_counter()
    for step in range(every, steps + 1, every):
        model.train(iterations=every, display_every=10**9, verbose=0)
        misfit = np.linalg.norm(model.predict(points) - truth) / np.linalg.norm(truth)
        last = optimizer.last_step
        yield Linearization(
            step, time.perf_counter() - begin, last.loss_after, float(misfit), last.path.name
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for options in ({}, {"curvature": "gauss_newton"}):
        print(f"RegNewton({', '.join(f'{k}={v!r}' for k, v in options.items())})")
        for r in readings(chosen.seed, chosen.steps, **options):
            print(
                f"  step {r.step:4d}  {r.seconds:6.2f} s  loss {r.loss:.2e}  "
                f"relative L2 error {r.error:.2e}  {r.path}",
                flush=True,
            )


if __name__ == "__main__":
    main()
