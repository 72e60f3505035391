"""Seconds a step on 1, 2 and 4 local processes: python -m examples.benchmarks.processes.

Once with the rows of all processes together fixed, and once with those of each process. One thread
each, so that the numbers compare on a machine with as many free cores as processes.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torch_newton import RegNewton

WORLDS = (1, 2, 4)
STEPS = 5


@dataclass(frozen=True)
class Case:
    """What each process trains: two hidden layers, fitted to one output.

    Attributes:
        name: how the system is solved.
        rows: in all on one process.
        width: of the layers.
        options: of the optimizer.
    """

    name: str
    rows: int
    width: int
    options: dict[str, Any]


CASES = (
    Case("P x P, rows apart", 8192, 20, {"curvature": "gauss_newton", "scaling": None}),
    Case("R x R, rows gathered", 1024, 64, {"curvature": "gauss_newton", "scaling": None}),
    Case(
        "low rank, rows apart",
        4096,
        64,
        {"curvature": "gauss_newton", "max_memory": 2**26},
    ),
    Case(
        "iterations",
        8192,
        64,
        {"curvature": "gauss_newton", "preconditioner": None, "cg_max_iter": 10},
    ),
)


def step_seconds(case: Case, rank: int, world: int, rows: int) -> float:
    """The median over the steps of one process, which has its share of the rows."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Linear(4, case.width), nn.Tanh(), nn.Linear(case.width, case.width), nn.Tanh(),
        nn.Linear(case.width, 1),
    ).double()  # fmt: skip
    x = torch.rand(rows, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    y = torch.sin(6 * x.sum(1, keepdim=True))
    if world > 1:
        model = DistributedDataParallel(model)
    optimizer = RegNewton(model.parameters(), **case.options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.step(closure)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def work(rank: int, world: int, folder: str) -> None:
    """All cases on one of `world` processes; the first one writes what it measured."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world
        )
    found = {
        (case.name, fixed): step_seconds(case, rank, world, case.rows // (world if fixed else 1))
        for case in CASES
        for fixed in (True, False)
    }
    if rank == 0:
        torch.save(found, Path(folder) / f"{world}.pt")
    if world > 1:
        dist.destroy_process_group()


def main() -> None:
    """Print the table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        for world in WORLDS:
            mp.spawn(work, args=(world, folder), nprocs=world)  # type: ignore[no-untyped-call]
        found = [torch.load(Path(folder) / f"{world}.pt", weights_only=False) for world in WORLDS]
    print(f"{'milliseconds a step':46}" + "".join(f"{world:>8}" for world in WORLDS))
    for case in CASES:
        for fixed in (True, False):
            what = f"{case.rows} rows in all" if fixed else f"{case.rows} rows each"
            times = "".join(f"{1000 * times[case.name, fixed]:8.1f}" for times in found)
            print(f"{case.name:24}{what:22}{times}")


if __name__ == "__main__":
    main()
