"""Figures of single claims: ``python -m examples.benchmarks.figures [NAME ...]``.

Each runs a few contenders longer than the suite does and prints one line per seed or width. Runs
are stored and resumed as in the suite.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from .contenders import CONTENDERS
from .problem import Instance
from .problems import PROBLEMS
from .problems.regression import rss_training
from .runner import Plan, best_value, execute, preload, results, time_to
from .sizes import Size
from .store import Record, Store

OURS, LBFGS, LM = "RegNewton", "L-BFGS", "torch-levenberg-marquardt"
Lines = Iterator[str]


def measured(
    folder: Path,
    problems: list[str],
    contenders: list[str],
    seeds: int,
    budget: float,
    threads: int,
) -> dict[tuple[str, str], list[Record]]:
    """The suite's own runs, with a budget of the figure's, and without an early end.

    A loss of zero as the hardest target is one that nobody reaches, so that all have equal time.
    """
    names = tuple(contenders)
    size = Size("figures", seeds, budget, budget, names, names, tune=True)
    chosen = [replace(PROBLEMS[p], targets=(*PROBLEMS[p].targets, 0.0)) for p in problems]
    plan = Plan(size, chosen, contenders, seeds, None, threads)
    store = Store(folder / "figures")
    preload(plan)
    tqdm.monitor_interval = 0
    with tqdm(total=plan.runs(), unit="run", leave=False) as progress:
        execute(plan, store, progress=progress)
    return results(plan, store)


def small_regression(folder: Path, threads: int) -> Lines:
    """10 s against torch-levenberg-marquardt: loss, and steps per second."""
    problem = PROBLEMS["small-regression"]
    table = measured(folder, [problem.name], [OURS, LM], 5, 10.0, threads)
    for ours, peer in zip(table[problem.name, OURS], table[problem.name, LM], strict=True):
        rate = ours["steps"] / ours["seconds"] / (peer["steps"] / peer["seconds"])
        yield (
            f"seed {ours['seed']}: loss {best_value(ours, problem):.1e} against "
            f"{best_value(peer, problem):.1e}; {rate:.2f} times its steps per second"
        )


def first_below(record: Record, error: float) -> float:
    """Seconds after which the recorded error is at most this."""
    return next((t for t, *_, e in record["curve"] if e is not None and e <= error), math.inf)


def poisson(folder: Path, threads: int) -> Lines:
    """2-D Poisson, 30 s: when L-BFGS's last error is reached, and the error at equal time."""
    names = ["poisson-2d", "poisson-2d-shallow"]
    table = measured(folder, names, [OURS, LBFGS], 3, 30.0, threads)
    for name in names:
        for ours, peer in zip(table[name, OURS], table[name, LBFGS], strict=True):
            sooner = peer["seconds"] / first_below(ours, peer["best_error"])
            yield (
                f"{name} seed {ours['seed']}: error {ours['best_error']:.1e} against "
                f"{peer['best_error']:.1e}, whose error is reached {sooner:.1f} times sooner"
            )


def rss(folder: Path, threads: int) -> Lines:
    """The RSS training problem, 15 s: steps to 1e-6, and the loss against L-BFGS."""
    problem = PROBLEMS["rss-training"]
    table = measured(folder, [problem.name], [OURS, LBFGS], 5, 15.0, threads)
    for ours, peer in zip(table[problem.name, OURS], table[problem.name, LBFGS], strict=True):
        at = ours["reached"].get(repr(1e-6))
        steps = f"below 1e-6 after {at[2]} steps" if at else f"above 1e-6 ({ours['steps']} steps)"
        yield (
            f"seed {ours['seed']}: {steps}; loss {best_value(ours, problem):.1e} against "
            f"L-BFGS {best_value(peer, problem):.1e}"
        )


def ordinary_nets(folder: Path, threads: int) -> Lines:
    """ReLU regression and circle, 10 s, against tuned Adam and L-BFGS."""
    names = ["relu-regression", "circle"]
    contenders = [OURS, "Adam", LBFGS]
    table = measured(folder, names, contenders, 3, 10.0, threads)
    for name in names:
        problem = PROBLEMS[name]
        for contender in contenders:
            records = table[name, contender]
            loss = statistics.median(best_value(r, problem) for r in records)
            seconds = statistics.median(time_to(r, problem.target) for r in records)
            yield f"{name} {contender}: {seconds:.3g} s to {problem.target:g}, loss {loss:.1e}"


def time_of(call: Callable[[], object], repeat: int = 20) -> float:
    """Median seconds of a call, the first two left out."""
    times = []
    for _ in range(repeat + 2):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def solve_of(rows: int) -> float:
    """Seconds to factor and solve one rows x rows system."""
    a = torch.randn(rows, rows)
    gram = a @ a.T + rows * torch.eye(rows)
    b = torch.randn(rows, 1)
    return time_of(lambda: torch.cholesky_solve(b, torch.linalg.cholesky(gram)))


def step_cost(folder: Path, threads: int) -> Lines:
    """A Gauss-Newton step in closure evaluations, beyond the solve of the R x R system."""
    from torch_newton import RegNewton

    for name in ("small-regression", "circle", "relu-regression", "poisson-2d", "heat"):
        instance = PROBLEMS[name].build(0)
        optimizer = RegNewton(instance.params, curvature="gauss_newton")
        closure = closure_of(instance, optimizer)
        rows = len(instance.rows.residuals())
        step = time_of(lambda o=optimizer, c=closure: o.step(c))
        evaluation, solve = time_of(closure), solve_of(rows)
        yield (
            f"{name} ({rows} rows): {(step - solve) / evaluation:.1f} closure evaluations and a "
            f"solve of {solve * 1e3:.2f} ms; path {optimizer.last_step.path.name}"
        )


def cg_by_width(folder: Path, threads: int) -> Lines:
    """Median CG iterations over 20 steps on the RSS training problem, widths 64 to 16,384.

    The exact Hessian with the paper's damping, gamma = 1, each system solved to 1e-8.
    """
    import matplotlib

    from torch_newton import RegNewton, WidthScaled

    matplotlib.use("Agg")
    from matplotlib import pyplot

    widths, medians = [4**k for k in range(3, 8)], []
    for width in widths:
        torch.manual_seed(0)
        instance = rss_training(width)
        optimizer = RegNewton(instance.params, damping=WidthScaled(gamma=1.0))
        closure = closure_of(instance, optimizer)
        iterations = []
        for _ in range(20):
            optimizer.step(closure)
            iterations.append(optimizer.last_step.cg_iterations)
        medians.append(statistics.median(iterations))
        yield f"width {width}: {medians[-1]:g} CG iterations"
    figure, axis = pyplot.subplots(figsize=(5, 3.6))
    axis.plot(widths, medians, "o-", color="black")
    axis.set(xscale="log", xlabel="width N", ylabel="median CG iterations per step")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    path = folder / "figures" / "cg_by_width.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    yield f"picture: {path}"


def closure_of(instance: Instance, optimizer: torch.optim.Optimizer) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = instance.loss()
        loss.backward()
        return loss

    return closure


# Those that run here come last: torch's thread pool must not exist when the others fork.
FIGURES: dict[str, Callable[[Path, int], Lines]] = {
    "small-regression": small_regression,
    "poisson": poisson,
    "rss": rss,
    "ordinary-nets": ordinary_nets,
    "step-cost": step_cost,
    "cg-by-width": cg_by_width,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks.figures", description=__doc__
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    unknown = set(options.names) - set(FIGURES)
    if unknown:
        raise SystemExit(f"unknown figures: {unknown}; known: {', '.join(FIGURES)}")
    missing = {n: r for n in (OURS, LM) if (r := CONTENDERS[n].missing())}
    if missing:
        raise SystemExit(f"missing: {missing}")
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    for name, figure in FIGURES.items():
        if not options.names or name in options.names:
            print(f"\n{name}: {figure.__doc__}")
            for line in figure(options.out, options.threads):
                print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
