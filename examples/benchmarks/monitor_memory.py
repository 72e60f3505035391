"""Memory of CurvatureMonitor: python -m examples.benchmarks.monitor_memory [--models resnet-18].

Each network of `monitor_models` trains by Adam for some steps, with a pause of the monitor after
each of them once five are timed. What PyTorch's allocator hands out on the CPU is recorded in full,
so that the peak is exact on a busy machine, too. Printed in vectors of P numbers, above what is
held between two steps without a monitor, are

- `step`: the peak of a training step;
- `product`: that of a gradient and a product with the Hessian alone, on a copy of the batch and
  with the graph;
- `pause`: that of the monitor's pauses;
- `between`: what the monitor holds between two pauses;
- `allowed`: the Lanczos vectors for which the measurement had room at a time;
- `surplus`: pause - product - allowed, which is to be at most 4.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from lightning_callbacks import CurvatureMonitor
from lightning_callbacks.batch import copy_of
from lightning_callbacks.budget import ENOUGH_STEPS
from lightning_callbacks.quantities.table import BY_DEFAULT
from lightning_callbacks.second_order import differentiable_twice
from torch_newton.autodiff.products import gradient_and_hessian
from torch_newton.linalg.lanczos import Process

from .memory import measured
from .monitor_models import MODELS, made, train

PAUSE = "a pause of the monitor"
"""The name of the recorded spans."""


class Recorded(CurvatureMonitor):
    """Marks its pauses in the record of the profiler."""

    def on_train_batch_end(self, *given: Any) -> None:
        with record_function(PAUSE):
            super().on_train_batch_end(*given)


@dataclass
class Vectors:
    """Bytes of the Lanczos vectors for which there is room, and the most at a time."""

    now: int = 0
    most: int = 0


@contextmanager
def counted() -> Iterator[Vectors]:
    """A block in which the Lanczos vectors of all processes are added up."""
    vectors, make, free = Vectors(), Process.__init__, Process.give_up

    def init(process: Process, *given: Any) -> None:
        make(process, *given)
        vectors.now += process.basis.nbytes
        vectors.most = max(vectors.most, vectors.now)

    def gone(process: Process) -> None:
        vectors.now -= process.basis.nbytes if hasattr(process, "basis") else 0

    def given_up(process: Process) -> None:
        gone(process)
        free(process)

    Process.__init__, Process.__del__ = init, gone  # type: ignore[method-assign, attr-defined]
    Process.give_up = given_up  # type: ignore[method-assign]
    try:
        yield vectors
    finally:
        Process.__init__, Process.give_up = make, free  # type: ignore[method-assign]
        del Process.__del__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Levels:
    """Bytes above what is held between two steps: see the head of this file."""

    step: int
    pause: int
    between: int


def levels(events: Sequence[Any]) -> Levels:
    """The peaks within the pauses and outside them."""
    spans = sorted((e.start_ns(), e.end_ns()) for e in events if e.name() == PAUSE)
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now, index = 0, 0
    ends: list[int] = []
    peaks = {True: 0, False: 0}
    for at, change in changes:
        while index < len(spans) and at > spans[index][1]:
            ends.append(now)
            index += 1
        now += change
        inside = index < len(spans) and at >= spans[index][0]
        # In the first step there is no gradient, and no state of the optimizer; and from the fifth
        # on the monitor may hold something.
        if ends and (inside or len(ends) < ENOUGH_STEPS):
            peaks[inside] = max(peaks[inside], now)
    base = ends[0]
    return Levels(peaks[False] - base, peaks[True] - base, max(ends) - base)


def product_alone(name: str) -> int:
    """The peak in bytes of a gradient and a product with the Hessian."""
    module, loader = made(name)
    batch, params = next(iter(loader)), list(module.parameters())

    def product() -> tuple[Tensor, Tensor]:
        with differentiable_twice():  # the kernels that the monitor uses
            g, H = gradient_and_hessian(module.training_step(copy_of(batch)), params)
        return g, H @ torch.ones_like(g)

    return measured(product).peak


@dataclass(frozen=True)
class Memory:
    """What a network and its measurement take, in vectors of P numbers: see the head of this file.

    Attributes:
        known: whether the extreme eigenvalues of the Hessian were measured.
    """

    P: int
    step: float
    product: float
    pause: float
    between: float
    allowed: float
    known: bool

    @property
    def surplus(self) -> float:
        return self.pause - self.product - self.allowed


def memory_of(name: str, steps: int, **options: Any) -> Memory:
    """Train one of the networks for so many steps under a monitor with these options."""
    product = product_alone(name)
    monitor = Recorded(1, **options)
    recorder = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with counted() as vectors, recorder:
        module, loader = made(name)
        train(module, loader, steps, monitor)
    found = levels(recorder.profiler.kineto_results.events())  # type: ignore[union-attr]
    params = list(module.parameters())
    unit = sum(param.nbytes for param in params)
    known = math.isfinite(monitor.latest.get("hessian/lambda_max", math.nan))
    sizes = (found.step, product, found.pause, found.between, vectors.most)
    return Memory(sum(p.numel() for p in params), *(size / unit for size in sizes), known)


def line(name: str, given: argparse.Namespace) -> str:
    """The row of one network."""
    found = memory_of(
        name,
        given.steps,
        quantities=given.quantities,
        max_overhead=None,
        max_pause=given.pause,
        max_products=given.products,
    )
    return (
        f"{name:12s}{found.P:12,}{found.step:8.1f}{found.product:9.1f}{found.pause:8.1f}"
        f"{found.between:9.1f}{found.allowed:9.1f}{found.surplus:9.1f}"
        f"   {'yes' if found.known else 'no'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--quantities", nargs="+", default=list(BY_DEFAULT))
    parser.add_argument("--products", type=int, default=20, help="Lanczos steps at most")
    parser.add_argument("--pause", type=float, default=20, help="training steps at most")
    parser.add_argument("--steps", type=int, default=9, help="training steps")
    given = parser.parse_args()
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore")
    print("network                P    step  product   pause  between  allowed  surplus  Hessian")
    for name in given.models:
        print(line(name, given), flush=True)


if __name__ == "__main__":
    main()
