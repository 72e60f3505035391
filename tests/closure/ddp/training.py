"""Training in one process, and the same in one of several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tests.closure.ddp.problems import CASES, STEPS, batch, clip, flat, loss_of, model_of, rows_of
from torch_newton import RegNewton

WRAPPED: dict[str, dict[str, Any]] = {
    "static_graph": {"static_graph": True},
    "bucket_view": {"gradient_as_bucket_view": True},
}
"""Options of `DistributedDataParallel`."""

SOLVED: dict[str, tuple[str, int]] = {}
"""How the last step of a case was solved, and with which rank."""


def together(case: str, world: int) -> list[Tensor]:
    """The same in a single process: the loss is the mean of the ranks' losses."""
    model = model_of(case, None)
    optimizer = RegNewton(model.parameters(), **CASES[case])
    path = []
    for step in range(STEPS):

        def closure() -> Tensor:
            optimizer.zero_grad()
            parts = []
            for rank in range(world):
                if case.endswith("unused"):
                    x, y, _ = batch(rows_of(case, rank), 10 * rank)
                    parts.append(functional.mse_loss(model(x, rank == 0), y))
                else:
                    parts.append(loss_of(case, model, rank))
            loss = torch.stack(parts).mean()
            loss.backward()
            clip(case, model)
            return loss

        if case.startswith("accumulated"):
            micro_batches(case, model, optimizer, world, step)
        else:
            optimizer.step(closure)
        path.append(flat(model))
    note(case, optimizer)
    return path


def note(case: str, optimizer: RegNewton) -> None:
    assert optimizer.last_step is not None
    SOLVED[case] = (optimizer.last_step.path.name, optimizer.last_step.rank)


def micro_batches(case: str, model: nn.Module, optimizer: RegNewton, world: int, step: int) -> None:
    """Gradient of both micro-batches, twice the curvature of the second; or all inside."""
    losses = lambda seed: torch.stack(  # noqa: E731
        [loss_of(case, model, rank, seed) for rank in range(world)]
    ).mean()
    optimizer.zero_grad()
    if case != "accumulated_inside":
        losses(2 * step).backward()

    def closure() -> Tensor:
        if case != "accumulated_inside":
            loss = losses(2 * step + 1)
        else:
            optimizer.zero_grad()
            loss = losses(2 * step) + losses(2 * step + 1)
        loss.backward()
        return loss

    optimizer.step(closure)


def apart(case: str, rank: int) -> list[Tensor]:
    inner = model_of(case, rank)
    unused = case.endswith("unused")
    model = DistributedDataParallel(inner, find_unused_parameters=unused, **WRAPPED.get(case, {}))
    options = CASES[case]
    if case == "least_memory" and rank != 1:
        options = options | {"max_memory": None}
    optimizer = RegNewton(model.parameters(), **options)
    path = []
    for step in range(STEPS):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(case, model, rank)
            loss.backward()
            clip(case, model)
            return loss

        def last_micro_batch(step: int = step) -> Tensor:
            loss = loss_of(case, model, rank, 2 * step + 1)
            loss.backward()
            return loss

        def both_micro_batches(step: int = step) -> None:
            optimizer.zero_grad()
            with model.no_sync():
                loss_of(case, model, rank, 2 * step).backward()
            loss_of(case, model, rank, 2 * step + 1).backward()

        if case in ("accumulated", "accumulated_rows"):
            optimizer.zero_grad()
            with model.no_sync():
                loss_of(case, model, rank, 2 * step).backward()
            optimizer.step(last_micro_batch)
        elif case == "accumulated_inside":
            optimizer.step(both_micro_batches)
        else:
            optimizer.step(closure)
        path.append(flat(inner))
    note(case, optimizer)
    return path
