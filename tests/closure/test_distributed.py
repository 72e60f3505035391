"""Several processes take the step that one process takes on the joined batch."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.closure.ddp import failures, problems, sharding, traffic, training
from torch_newton import RegNewton
from torch_newton.closure.distributed import RankError

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="PyTorch without gloo",
)
HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}


def run(world: int, folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.closure.ddp"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder)],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda n: f"{n} ranks"
)
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    return run(request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", problems.CASES)
def test_ranks_step_as_one_process_does(ranks: list[dict[str, Any]], case: str) -> None:
    expected = training.together(case, len(ranks))
    # Rounding differs between a mean over ranks and one over the batch, and a truncated solve
    # amplifies it from step to step; differences of gradients do so at once.
    for step in range(problems.STEPS):
        found = [results[case][step] for results in ranks]
        assert all(torch.equal(vector, found[0]) for vector in found)
        # So does an undamped step, whose system has no bound on its condition.
        if case not in ("differences", "undamped") or step == 0:
            tol = 1e-6 if case == "differences" else 1e-10 if step < 3 else 1e-8
            # Undamped steps go to numbers in the thousands, of a system as badly conditioned.
            rtol = 1e-9 if case == "undamped" else 0
            torch.testing.assert_close(found[0], expected[step], rtol=rtol, atol=tol)
    assert not torch.equal(expected[0], expected[-1])
    how = training.SOLVED[case]
    assert all(results["solved"][case] == how for results in ranks)
    if "low_rank" in case or case in ("least_memory", "accumulated_rows"):
        assert how[0] == "LOW_RANK"
        # With four ranks, less of the rows that there are then fits in the same memory.
        least = 2 if case in ("empty_low_rank", "low_rank_table") else 5
        # Under the exact Hessian a step does not say of which rank its preconditioner was.
        assert how[1] >= least or problems.CASES[case].get("curvature") != "gauss_newton"


def test_batches_are_counted_once(ranks: list[dict[str, Any]]) -> None:
    weights, counts = zip(*(results["batch_norm"] for results in ranks), strict=True)
    assert all(torch.equal(w, weights[0]) for w in weights)
    assert all(int(count) == problems.STEPS for count in counts)


@pytest.mark.parametrize(
    ("case", "kind", "says"),
    [
        ("unwrapped", "RankError", "has not called a DistributedDataParallel model"),
        ("no_sync", "RankError", "leave no_sync() for the last micro-batch"),
        ("an infinite gradient", "NonFiniteLossError", "the gradient is not finite"),
    ],
)
def test_what_no_rank_can_step_with_is_the_same_error_on_all(
    ranks: list[dict[str, Any]], case: str, kind: str, says: str
) -> None:
    for results in ranks:
        message = results[case][0]
        assert message.startswith(kind)
        assert says in message
        assert "(and moved)" not in message


@pytest.mark.parametrize(("case", "own"), failures.FAILURES.items())
def test_a_failure_on_one_rank_stops_all_within_seconds(
    ranks: list[dict[str, Any]], case: str, own: str
) -> None:
    messages = [results[case][0] for results in ranks]
    assert messages[1].startswith(own)
    assert all("failed on another rank" in m for r, m in enumerate(messages) if r != 1)
    assert not any("(and moved)" in message for message in messages)
    # Those who wait for a rank that never answers do so for the two minutes of the worker.
    assert all(results[case][1] < 20 for results in ranks)
    assert all(torch.equal(results[case][2], ranks[0][case][2]) for results in ranks)


@pytest.mark.parametrize("kind", sharding.SHARDED)
def test_parameters_in_parts_are_refused(ranks: list[dict[str, Any]], kind: str) -> None:
    assert all("use DistributedDataParallel" in results["sharded"][kind] for results in ranks)


@pytest.mark.parametrize("case", traffic.COUNTED)
def test_a_step_exchanges_what_the_page_on_costs_says(
    ranks: list[dict[str, Any]], case: str
) -> None:
    for rank in ranks:
        found = rank["exchanged"][case]
        P = sum(math.prod(shape) for shape in found["shapes"])
        # The gradient, and which parameters are used.
        numbers = P + len(found["shapes"]) + exchanged(case, found, P)
        assert found["bytes"] == 8 * numbers
        # Losses, and decisions; along Kronecker factors also curvatures along directions.
        more = 16 if case == "kronecker" else 12
        assert found["flags"] <= found["exchanges"] + more


def exchanged(case: str, found: dict[str, Any], P: int) -> int:
    """Numbers given away besides the gradient, as .docs/pages/reference/cost.md says."""
    step, shapes, rows = found["step"], found["shapes"], found["rows"]
    weights = [shape for shape in shapes if len(shape) == 2]
    sides = sum(a + b for a, b in weights)
    if step["path"] == "KRONECKER":
        # Both factors and D, of a weight with its bias beside it, and the weight of its products.
        return sum(a**2 + (b + 1) ** 2 + a * (b + 1) + 1 for a, b in weights)
    if step["path"] == "PLAIN":
        return step["products"] * P
    numbers = 4 + 4 * len(shapes) + rows  # what the ranks have, kinds of factors, target
    if step["path"] == "LOW_RANK":
        # The norms of rows, columns of the kernel, the rows that were looked at; and products.
        numbers += rows + rows * step["rank"] + found["taken"] * sides
        return numbers + step["products"] * P
    if case.startswith("primal"):
        # J^T J, which is taken over to a larger D, and J^T t; J d of each direct step; and the
        # product that measures A.
        solves = step["attempts"] + found["lifts"]
        numbers += P**2 + P + solves * rows
        numbers += (step["products"] - solves) * P
    else:
        numbers += rows * sides
        numbers += step["products"] * P if case.endswith("exact") else 0
    if case.endswith("scaled"):
        numbers += sides + sum(shape[0] for shape in shapes if len(shape) == 1)
    return numbers


def test_a_trial_that_is_not_defined_on_one_rank_is_refused_on_all(
    ranks: list[dict[str, Any]],
) -> None:
    results = [rank["undefined"] for rank in ranks]
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
    assert any(int(attempts) > 1 for attempts in results[0][1:])


def test_kronecker_factors_are_those_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    first, *others = (found["kronecker"] for found in ranks)
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a, b)
    start = torch.stack(
        [
            problems.loss_of("uneven", problems.network(3), rank).detach()
            for rank in range(len(ranks))
        ]
    ).mean()
    assert float(first[-1]) < 0.5 * float(start)  # 0.25 with two ranks, 0.42 with four


@pytest.mark.parametrize("name", ["FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"])
def test_models_in_parts_are_refused_before_the_first_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *args: 1)
    wrapper = type(name, (nn.Sequential,), {})(nn.Linear(2, 1))
    before = [p.detach().clone() for p in wrapper.parameters()]
    optimizer = RegNewton(wrapper.parameters())
    with pytest.raises(RankError, match="strategy='ddp'"):
        optimizer.step(lambda: wrapper(torch.ones(3, 2)).square().mean())
    assert all(torch.equal(a, b) for a, b in zip(before, wrapper.parameters(), strict=True))
    assert optimizer.last_step is None


LIGHTNING = """
import sys, torch
import pytorch_lightning as pl
from torch.utils.data import DataLoader, TensorDataset
from torch_newton import RegNewton

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        ).double()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return RegNewton(self.parameters())

if __name__ == "__main__":
    world, folder = int(sys.argv[1]), sys.argv[2]
    x = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]
    loader = DataLoader(TensorDataset(x, torch.sin(3 * x)), batch_size=24 // world)
    trainer = pl.Trainer(
        max_steps=5, max_epochs=-1, accelerator="cpu", devices=world, logger=False,
        strategy="ddp" if world > 1 else "auto", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )
    module = Module()
    trainer.fit(module, loader)
    flat = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    torch.save(flat, f"{folder}/{world}-{trainer.global_rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pytorch_lightning") is None, reason="needs Lightning")
def test_lightning_with_the_ddp_strategy(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(LIGHTNING)
    for world in (1, 2):
        subprocess.run(
            [sys.executable, str(script), str(world), str(tmp_path)],
            env=ENVIRONMENT,
            check=True,
            timeout=300,
            capture_output=True,
        )
    one, first, second = (torch.load(tmp_path / f"{n}.pt") for n in ("1-0", "2-0", "2-1"))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=0, atol=1e-10)
