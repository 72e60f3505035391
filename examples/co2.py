"""Fit the Mauna Loa CO2 record by a network: RegNewton beside Adam and L-BFGS, at equal time.

    python examples/co2.py [--seconds 20] [--output output] [--plain]

Prints the errors on the weeks seen and on the weeks held out, and saves a picture of the fit and
of the losses against time. Adam has the best of three learning rates; each of the three tries
has the whole time. A lower training error is what an optimizer is asked for, and what RegNewton
reaches; it need not be a lower error on the weeks held out, because nothing here regularizes the
fit: look at both columns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from co2_record import Record, features, load_co2, network
from progress import Progress, add_plain
from torch import Tensor, nn

from torch_newton import RegNewton

Maker = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

CONTENDERS: dict[str, Maker] = {
    "Adam, rate 3e-3": lambda params: torch.optim.Adam(params, lr=3e-3),
    "Adam, rate 1e-2": lambda params: torch.optim.Adam(params, lr=1e-2),
    "Adam, rate 3e-2": lambda params: torch.optim.Adam(params, lr=3e-2),
    "L-BFGS": lambda params: torch.optim.LBFGS(
        params, history_size=100, line_search_fn="strong_wolfe"
    ),
    "RegNewton": RegNewton,
    "RegNewton, Gauss-Newton": lambda params: RegNewton(params, curvature="gauss_newton"),
}


@dataclass(frozen=True)
class Run:
    """What one optimizer did.

    Attributes:
        seconds: when the closure was called, from the start.
        errors: the lowest root mean square error on the weeks seen up to then, in ppm.
        steps: calls of ``optimizer.step``.
        net: the network at the end.
        seen: its error on the weeks seen, in ppm.
        held_out: its error on the weeks held out, in ppm.
    """

    seconds: list[float]
    errors: list[float]
    steps: int
    net: nn.Module
    seen: float
    held_out: float


def train(make: Maker, record: Record, budget: float, progress: Progress) -> Run:
    """The loop that everybody writes: a closure, and step(closure)."""
    x, y = record.inputs[~record.held_out], record.targets[~record.held_out]
    torch.manual_seed(0)
    net = network()
    optimizer = make(list(net.parameters()))
    seconds: list[float] = []
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
        return loss

    steps = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < budget:
        optimizer.step(closure)
        steps += 1
        progress.show(elapsed, f"{record.error_in_ppm(min(losses)):.3f} ppm")
    errors = [record.error_in_ppm(loss) for loss in accumulate(losses, min)]
    seen = error(net, record, ~record.held_out)
    return Run(seconds, errors, steps, net, seen, error(net, record, record.held_out))


@torch.no_grad()
def error(net: nn.Module, record: Record, weeks: Tensor) -> float:
    """The root mean square error on some weeks, in ppm."""
    loss = nn.functional.mse_loss(net(record.inputs[weeks]), record.targets[weeks])
    return record.error_in_ppm(loss.item())


def best_adam(runs: dict[str, Run]) -> dict[str, Run]:
    """Of Adam's rates the one with the lowest error on the weeks seen, and all others."""
    rates = [name for name in runs if name.startswith("Adam")]
    best = min(rates, key=lambda name: runs[name].seen)
    return {name: run for name, run in runs.items() if name == best or name not in rates}


def picture(record: Record, runs: dict[str, Run], path: Path) -> None:
    """The record with the fit on the left, errors against time on the right."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    years = torch.linspace(float(record.years.min()), float(record.years.max()), 4000)
    years = years.to(record.years)
    with torch.no_grad():
        fit = runs["RegNewton"].net(features(years, record.years))[:, 0]
    fit = fit * record.ppm.std() + record.ppm.mean()
    for axes, size in ((left, 2), (left.inset_axes((0.62, 0.08, 0.37, 0.3)), 4)):
        axes.plot(record.years, record.ppm, ".", color="0.6", markersize=size, label="measured")
        axes.plot(years, fit, color="black", linewidth=0.7, label="fitted by RegNewton")
        axes.tick_params(labelsize=9 if axes is left else 7)
    axes.set(xlim=(1990, 1994), ylim=(349, 363))
    left.set(xlabel="year", ylabel="CO$_2$ at Mauna Loa (ppm)")
    left.legend(frameon=False, markerscale=4, loc="upper left")

    looks = ((":", "0.45", 1.4), ("-.", "0.45", 1.4), ("-", "black", 1.8), ("--", "black", 1.8))
    for (name, run), (style, color, width) in zip(runs.items(), looks, strict=True):
        label = f"{name} ({run.steps} steps)"
        right.loglog(run.seconds, run.errors, style, color=color, linewidth=width, label=label)
    right.set(xlabel="wall-clock time (s)", ylabel="training error (ppm, root mean square)")
    right.set(xlim=(1e-2, None))
    right.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each run (default 20)")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder for the picture"
    )
    add_plain(parser)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)

    record = load_co2()
    runs: dict[str, Run] = {}
    for name, make in CONTENDERS.items():
        with Progress(name, arguments.seconds, arguments.plain) as progress:
            runs[name] = train(make, record, arguments.seconds, progress)
    runs = best_adam(runs)

    seen = int((~record.held_out).sum())
    held_out = int(record.held_out.sum())
    print(f"\nroot mean square error in ppm after {arguments.seconds:g} s")
    print(f"{'':26}{'steps':>8}{f'{seen} weeks seen':>20}{f'{held_out} held out':>16}")
    for name, run in runs.items():
        print(f"{name:26}{run.steps:8}{run.seen:20.4f}{run.held_out:16.4f}")
    path = arguments.output / "co2.png"
    picture(record, runs, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
