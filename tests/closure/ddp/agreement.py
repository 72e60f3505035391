"""Steps after which all ranks must have the same, whatever happened on one of them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.closure.ddp.problems import STEPS, flat, loss_of, network
from tests.helpers import closure_of
from torch_newton import RegNewton


def undefined(rank: int) -> list[Tensor]:
    """One rank's loss is not defined at the first trial of each step."""
    inner = network(1)
    model = DistributedDataParallel(inner)
    optimizer = RegNewton(model.parameters())
    accepted = []
    for _ in range(STEPS):
        start, trials = flat(inner).clone(), 0

        def closure() -> Tensor:
            nonlocal trials
            optimizer.zero_grad()
            loss = loss_of("auto", model, rank)
            moved = not torch.equal(flat(inner), start)  # noqa: B023
            trials += moved
            if rank == 1 and moved and trials == 1:
                raise ValueError("not defined here")
            loss.backward()
            return loss

        optimizer.step(closure)
        assert optimizer.last_step is not None
        accepted.append(torch.tensor([optimizer.last_step.attempts]))
    return [flat(inner), *accepted]


def batch_norm(rank: int) -> list[Tensor]:
    """Buffers are counted once a step, and every rank has the same weights."""
    inner = network(1, norm=True)
    model = DistributedDataParallel(inner)
    optimizer = RegNewton(model.parameters())
    for _ in range(STEPS):
        optimizer.step(closure_of(optimizer, partial(loss_of, "auto", model, rank)))
    return [flat(inner), inner[1].num_batches_tracked.clone()]


def kronecker(rank: int) -> list[Tensor]:
    """Factors are averaged over the ranks; the parameters at each step, and the loss at the end."""
    inner = network(3)
    model = DistributedDataParallel(inner)
    optimizer = RegNewton(model.parameters(), curvature="kronecker")
    path = []
    for _ in range(18):  # enough for the factors to lower the loss well below its start
        optimizer.step(closure_of(optimizer, partial(loss_of, "uneven", model, rank)))
        path.append(flat(inner))
    step = optimizer.last_step
    assert step is not None
    return [*path, torch.tensor([step.loss])]
