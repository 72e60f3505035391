"""One process: python -m tests.closure.ddp RANK WORLD FOLDER, where it leaves what it found."""

from __future__ import annotations

import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.closure.ddp.agreement import batch_norm, kronecker, undefined
from tests.closure.ddp.failures import FAILURES, SETUPS, error_of
from tests.closure.ddp.problems import CASES
from tests.closure.ddp.sharding import SHARDED, sharded
from tests.closure.ddp.traffic import COUNTED, exchanged
from tests.closure.ddp.training import SOLVED, apart


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    # A shell has what it starts in the background ignore interrupts, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=120),
    )
    results: dict[str, Any] = {case: apart(case, rank) for case in CASES}
    results["solved"] = dict(SOLVED)
    for case in (*SETUPS, *FAILURES):
        results[case] = error_of(case, rank)
        dist.barrier()
    results["sharded"] = {kind: sharded(kind, world) for kind in SHARDED}
    results["exchanged"] = {case: exchanged(case, rank) for case in COUNTED}
    results["batch_norm"] = batch_norm(rank)
    results["kronecker"] = kronecker(rank)
    results["undefined"] = undefined(rank)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
