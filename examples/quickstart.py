"""Solve Burgers' equation with a network: Adam, L-BFGS and RegNewton at equal time.

    python examples/quickstart.py [--seconds 25] [--output output] [--plain]

All three start from the same network and minimize the same loss at the same points. Printed is the
relative error of the solution, which no optimizer sees; saved is a picture of the solution, of the
front at the end, and of the error against time. Adam has the best of four rates, 1e-3 to 2e-2.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Threads that spin while they wait cost all three a factor of ten if anything else wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import burgers
import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from progress import Progress, add_plain
from torch import Tensor, nn

from torch_newton import RegNewton

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "Adam": lambda params: torch.optim.Adam(params, lr=5e-3),
    "L-BFGS": lambda params: torch.optim.LBFGS(
        params, history_size=100, line_search_fn="strong_wolfe"
    ),
    "RegNewton": RegNewton,
}
LOOKS = {"Adam": ("-.", "tab:orange"), "L-BFGS": ("--", "tab:blue"), "RegNewton": ("-", "black")}
"""Line and colour of each."""


@dataclass
class Run:
    """What one optimizer did.

    Attributes:
        network: as it stands.
        steps: calls of ``optimizer.step``.
        loss: before the last step.
        seconds: of training, when the error was measured; measuring it does not count.
        errors: ||u - exact|| / ||exact|| on the grid.
    """

    network: nn.Module
    steps: int = 0
    loss: float = float("nan")
    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def train(name: str, budget: float, plain: bool, grid: Tensor, exact: Tensor) -> Run:
    """The loop that everybody writes: a closure, and step(closure)."""
    torch.manual_seed(0)
    run = Run(burgers.Solution())
    points = burgers.collocation()
    optimizer = OPTIMIZERS[name](list(run.network.parameters()))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = burgers.loss(run.network, points)
        loss.backward()
        return loss

    elapsed = 0.0
    with Progress(name, budget, plain) as progress:
        while elapsed < budget:
            start = time.perf_counter()
            run.loss = optimizer.step(closure).item()
            elapsed += time.perf_counter() - start
            run.steps += 1
            # A hundred times in all, which is as fine as the picture shows it.
            if elapsed >= budget * len(run.seconds) / 100 or elapsed >= budget:
                run.seconds.append(elapsed)
                run.errors.append(error(run.network, grid, exact))
            progress.show(elapsed, f"error {run.errors[-1]:.1e}")
    return run


@torch.no_grad()
def error(network: nn.Module, grid: Tensor, exact: Tensor) -> float:
    """||u - exact|| / ||exact|| on the grid."""
    return ((network(grid)[:, 0] - exact).norm() / exact.norm()).item()


def picture(runs: dict[str, Run], grid: Tensor, exact: Tensor, path: Path) -> None:
    """The solution, the front at the end, and the error against time, side by side."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    with torch.no_grad():
        found = {name: run.network(grid)[:, 0].reshape(50, 201) for name, run in runs.items()}
    t, x = grid[::201, 0], grid[:201, 1]

    axes[0].set(title="u(t, x) found by RegNewton", xlabel="t", ylabel="x")
    image = axes[0].pcolormesh(t, x, found["RegNewton"].T, cmap="RdBu_r", shading="gouraud")
    figure.colorbar(image, ax=axes[0])

    axes[1].set(title="the front at t = 1", xlabel="x", ylabel="u(1, x)")
    axes[1].plot(x, exact.reshape(50, 201)[-1], color="0.8", linewidth=5, label="exact")
    axes[2].set(title="error at equal time", xlabel="training (s)", ylabel="relative error of u")
    for name, run in runs.items():
        line, colour = LOOKS[name]
        axes[1].plot(x, found[name][-1], line, color=colour, label=name)
        axes[2].semilogy(run.seconds, run.errors, line, color=colour, label=name)
    axes[1].legend(frameon=False, loc="upper right")
    axes[2].legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="for each run (default 25)")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder for the picture"
    )
    add_plain(parser)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(min(2, torch.get_num_threads()))

    grid = burgers.grid()
    exact = burgers.exact(grid[:, 0], grid[:, 1])
    runs = {
        name: train(name, arguments.seconds, arguments.plain, grid, exact) for name in OPTIMIZERS
    }
    print(f"\nBurgers' equation, {arguments.seconds:g} s each")
    print(f"{'':12}{'steps':>8}{'loss':>12}{'relative error':>18}")
    for name, run in runs.items():
        print(f"{name:12}{run.steps:8}{run.loss:12.1e}{run.errors[-1]:18.1e}")
    path = arguments.output / "quickstart.png"
    picture(runs, grid, exact, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
