"""Whether the time of a step is linear in samples and in parameters: three sizes of each.

    python -m examples.benchmarks.linear [--smaller N]

A regression with 250,000 to 10^6 samples and 1,185 parameters, solved with J^T J, and networks of
2.5 * 10^6 to 10^7 parameters with 512 samples, solved by iterations. Prints the seconds of a step,
the median of those that succeed at the first attempt, and their ratio to those of the size before:
twice the size should take 1.6 to 2.4 times as long. With ``--smaller`` all sizes are divided by N.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from examples.benchmarks.memory import network
from torch_newton import RegNewton

STEPS = 5
"""After the first, at which things are tested."""


def seconds(model: nn.Module, x: Tensor, y: Tensor, **options: object) -> float:
    """Of a step with one attempt, the median; of all steps, where there is none."""
    optimizer = RegNewton(model.parameters(), curvature="gauss_newton", scaling=None, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        times[step.attempts == 1].append(time.perf_counter() - start)
    return statistics.median(times[True] or times[False])


def of_samples(smaller: int) -> Iterator[tuple[str, Callable[[], float]]]:
    """The regression, with twice the samples each time."""
    for samples in (250_000 // smaller, 500_000 // smaller, 1_000_000 // smaller):

        def run(samples: int = samples) -> float:
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
            )
            x = torch.rand(samples, 2)
            return seconds(model, x, torch.sin(6 * x.sum(1, keepdim=True)))

        yield f"{samples} samples", run


def of_parameters(smaller: int) -> Iterator[tuple[str, Callable[[], float]]]:
    """The networks, with twice the parameters each time."""
    for parameters in (2_500_000 // smaller, 5_000_000 // smaller, 10_000_000 // smaller):

        def run(parameters: int = parameters) -> float:
            torch.manual_seed(0)
            x, options = torch.randn(512, 64), {"preconditioner": None, "cg_max_iter": 5}
            return seconds(network(parameters, 1), x, x[:, :1].sin(), cg_tol=0.0, **options)

        yield f"{parameters} parameters", run


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smaller", type=int, default=1, metavar="N")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for sizes in (of_samples(options.smaller), of_parameters(options.smaller)):
        before = None
        for name, run in sizes:
            spent = run()
            ratio = "" if before is None else f", {spent / before:.2f} times the one before"
            print(f"{name}: {spent:.2f} s a step{ratio}", flush=True)
            before = spent


if __name__ == "__main__":
    main()
