"""Set-ups that cannot work, and failures on one rank."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.closure.ddp.problems import DTYPE, flat, loss_of, network
from torch_newton import LinearOperator, RegNewton
from torch_newton.closure.distributed import Ranks

SETUPS = ("unwrapped", "no_sync", "an infinite gradient")

FAILURES: dict[str, str] = {
    "nan": "NonFiniteLossError",
    "raises": "ArithmeticError",
    "raises before the model": "ArithmeticError",
    "raises at a trial": "MemoryError",
    "is interrupted at a trial": "KeyboardInterrupt",
    "raises in reading": "ArithmeticError",
    "raises in a preconditioner": "ArithmeticError",
    "raises in a gradient of a difference": "MemoryError",
    "raises in an observer": "ArithmeticError",
    "raises in a backward pass": "ArithmeticError",
    "raises in a product": "ArithmeticError",
    "has no memory for an exchange": "MemoryError",
    "is interrupted while it waits": "KeyboardInterrupt",
}
"""What happens on the second rank, and what it raises there."""


class Fails(torch.autograd.Function):
    """The identity, whose derivative of a given order raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: int) -> Tensor:
        ctx.order = order
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.order <= 1:
            raise ArithmeticError("broken derivative")
        found: Tensor = Fails.apply(grad, ctx.order - 1)  # type: ignore[no-untyped-call]
        return found, None


ORDERS = {"raises in a backward pass": 1, "raises in a product": 2}
"""Of the derivative of the loss that fails."""


class Broken:
    """A preconditioner that fails on one rank at its second product."""

    def __init__(self, rank: int) -> None:
        self.rank, self.products = rank, 0

    def __call__(self, loss: Tensor, params: Any) -> Any:
        def product(v: Tensor) -> Tensor:
            self.products += 1
            if self.rank == 1 and self.products == 2:
                raise ArithmeticError("broken product")
            return v

        size = sum(param.numel() for param in params)
        return lambda damping: LinearOperator((size, size), product, product, DTYPE, loss.device)


def options_of(case: str, rank: int) -> dict[str, Any]:
    if case == "raises in a preconditioner":
        return {"preconditioner": Broken(rank)}
    if case == "raises in a product":
        return {"curvature": "hessian", "hvp": "exact"}
    return {"hvp": "finite_difference"} if "difference" in case else {}


def fail(case: str, rank: int, calls: int) -> None:
    """Raise what the case has this rank raise in the closure, before it runs the model."""
    if rank != 1:
        return
    if case == "raises before the model":
        raise ArithmeticError("no batch")
    at = 4 if "difference" in case else 3
    if case in ("raises at a trial", "raises in a gradient of a difference") and calls == at:
        raise MemoryError("no memory")
    if case == "is interrupted at a trial" and calls == at:
        raise KeyboardInterrupt


def fail_in_an_exchange(case: str, rank: int, patch: pytest.MonkeyPatch) -> None:
    """Let sums over the ranks begin with an interrupt on this rank, or without memory."""
    total, interrupted = Ranks.total, Path(sys.argv[3]) / "interrupted"

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        interrupted.touch()

    def late(ranks: Ranks, tensor: Tensor) -> Tensor:
        if rank != 1:
            # The other one waits for this one until it is interrupted, however busy the machine is.
            while not interrupted.exists():
                time.sleep(0.1)
            time.sleep(0.5)
        elif not interrupted.exists():
            threading.Timer(0.2, interrupt).start()
        return total(ranks, tensor)

    def exhausted(*args: Any, **options: Any) -> Tensor:
        raise MemoryError("no memory")

    if case == "is interrupted while it waits":
        patch.setattr(Ranks, "total", late)
    if case == "has no memory for an exchange" and rank == 1:
        patch.setattr(Tensor, "clone", exhausted)


def error_of(case: str, rank: int) -> tuple[str, float, Tensor]:
    """The message of a set-up that cannot work, after how many seconds it came, parameters."""
    inner = network(3, norm=case in SETUPS)
    model = DistributedDataParallel(inner)
    optimizer = RegNewton(inner.parameters(), **options_of(case, rank))
    before = [value.clone() for value in inner.state_dict().values()]
    calls, patch = 0, pytest.MonkeyPatch()

    def broken(*args: Any) -> None:
        raise ArithmeticError("broken")

    if rank == 1 and case == "raises in reading":
        patch.setattr("torch_newton.curvature.linearization.read_residuals", broken)
    if rank == 1 and case == "raises in an observer":
        optimizer.register_observer(broken)
    fail_in_an_exchange(case, rank, patch)

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        fail(case, rank, calls)
        loss = loss_of(case, inner if case == "unwrapped" else model, rank)
        if case == "nan" and rank == 1:
            loss = loss * float("nan")
        if case == "raises" and rank == 1:
            raise ArithmeticError("broken batch")
        if case in ORDERS and rank == 1:
            # Squared, so that what comes back to it depends on the parameters.
            loss = Fails.apply(loss, ORDERS[case]).square()  # type: ignore[no-untyped-call]
        if case == "an infinite gradient" and rank == 1:
            loss = loss + (inner[0].weight - inner[0].weight.detach()).square().sum().sqrt()
        loss.backward()
        return loss

    start = time.monotonic()
    try:
        for _ in range(2):  # the failure of an observer is seen at the next exchange
            if case == "no_sync":
                with model.no_sync():
                    optimizer.step(closure)
            else:
                optimizer.step(closure)
            before = [value.clone() for value in inner.state_dict().values()]
    except BaseException as error:
        after = inner.state_dict().values()
        same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        message = f"{type(error).__name__}: {error}" + ("" if same else " (and moved)")
    else:
        message = "no error"
    finally:
        patch.undo()
    return message, time.monotonic() - start, flat(inner)
