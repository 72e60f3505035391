"""What each process of `test_distributed` runs: python ddp_worker.py RANK WORLD FOLDER."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from torch_newton import LinearOperator, RegNewton
from torch_newton.closure.distributed import RankError, Ranks
from torch_newton.closure.shared_rows import SharedJacobian
from torch_newton.preconditioners.scaling import Scaling

STEPS = 6
DTYPE = torch.float64


def network(outputs: int = 1, norm: bool = False, small: bool = False) -> nn.Module:
    torch.manual_seed(0)
    if small:
        return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, outputs)).to(DTYPE)
    layers = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)]
    if norm:
        layers.insert(1, nn.BatchNorm1d(8))
    return nn.Sequential(*layers).to(DTYPE)


def batch(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, generator=random, dtype=DTYPE)
    return x, torch.sin(3 * x[:, :1]) * x[:, 1:], (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


CASES: dict[str, dict[str, Any]] = {
    "auto": {},
    "plain": {"preconditioner": None},
    "gauss_newton": {"curvature": "gauss_newton"},
    "gauss_newton_plain": {"curvature": "gauss_newton", "preconditioner": None},
    "fixed": {"damping": 5.0, "cg_tol": 1e-13},
    "differences": {"hvp": "finite_difference", "preconditioner": None},
    "cross_entropy": {},
    "uneven": {},
    "uneven_plain": {"preconditioner": None},
    "unused": {},
    "primal": {},
    "primal_uneven": {},
    "primal_scaled": {"curvature": "gauss_newton", "scaling": "jacobian"},
    "primal_hessian": {"curvature": "hessian"},
    "primal_unused": {"curvature": "gauss_newton", "scaling": "jacobian"},
    "primal_clipped": {},
    "undamped": {"curvature": "gauss_newton", "damping": 0.0, "lr": 0.5},
    "accumulated": {"damping": 5.0, "preconditioner": None, "cg_tol": 1e-13},
    "accumulated_inside": {"damping": 5.0, "preconditioner": None, "cg_tol": 1e-13},
    "accumulated_rows": {"damping": 5.0, "max_memory": 5000, "cg_tol": 1e-13},
    "low_rank": {"curvature": "gauss_newton", "max_memory": 5000},
    "low_rank_unused": {"curvature": "gauss_newton", "max_memory": 5000},
    "low_rank_hessian": {"curvature": "hessian", "max_memory": 5000},
    "primal_low_rank": {"curvature": "gauss_newton", "max_memory": 20000},
    "least_memory": {"curvature": "gauss_newton", "max_memory": 5000},
    "sampled_rows": {"damping": 5.0, "cg_tol": 1e-13, "preconditioner": "sampled_rows"},
    "nystrom": {"damping": 5.0, "cg_tol": 1e-13, "preconditioner": "nystrom"},
    "kronecker_rows": {"damping": 5.0, "cg_tol": 1e-13, "preconditioner": "kronecker"},
    "empty": {},
    "empty_low_rank": {"curvature": "gauss_newton", "max_memory": 2000, "cg_tol": 1e-13},
    "primal_empty": {},
    "sequences": {},
    "primal_sequences": {"curvature": "gauss_newton"},
    "table": {},
    "primal_table": {"curvature": "gauss_newton"},
    "low_rank_table": {"curvature": "gauss_newton", "max_memory": 5000, "cg_tol": 1e-13},
    "static_graph": {},
    "bucket_view": {},
}

WRAPPED: dict[str, dict[str, Any]] = {
    "static_graph": {"static_graph": True},
    "bucket_view": {"gradient_as_bucket_view": True},
}
"""Options of `DistributedDataParallel`."""


TALL = ("primal", "undamped")
"""Cases with more rows than parameters."""


def rows_of(case: str, rank: int) -> int:
    if case.startswith(TALL):
        return 40 + 30 * rank if case == "primal_uneven" else 40
    if "empty" in case:
        return 0 if rank == 1 else 10
    return 7 + 5 * rank if case.startswith("uneven") else 10


class Sequences(nn.Module):
    """Uses its weights at each place of a sequence, or has a table of what may stand there."""

    def __init__(self, table: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        first = nn.Embedding(7, 2) if table else nn.Linear(2, 3)
        self.net = nn.Sequential(first, nn.Tanh(), nn.Linear(2 if table else 3, 3)).to(DTYPE)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x).mean(1)
        return result


def sequences(case: str, model: nn.Module, rank: int) -> Tensor:
    """The loss of sequences that are longer on higher ranks."""
    rows, length = rows_of(case, rank), 3 + rank
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(rows, length, 2, generator=random, dtype=DTYPE)
    if case.endswith("table"):
        x = torch.randint(7, (rows, length), generator=random)
    y = torch.randn(rows, 3, generator=random, dtype=DTYPE)
    return functional.mse_loss(model(x), y)


def loss_of(case: str, model: nn.Module, rank: int, seed: int = 0) -> Tensor:
    if case.endswith(("sequences", "table")):
        return sequences(case, model, rank)
    x, y, label = batch(rows_of(case, rank), 10 * rank + 1000 * seed)
    if "empty" in case:
        return functional.mse_loss(model(x)[:, :1], y, reduction="sum") / 10
    if case == "cross_entropy":
        return functional.cross_entropy(model(x), label)
    return functional.mse_loss(model(x)[:, :1], y)


class Unused(nn.Module):
    """Has a layer that only the first rank uses."""

    def __init__(self, rank: int | None, small: bool = False) -> None:
        super().__init__()
        self.net, self.extra, self.rank = network(small=small), nn.Linear(2, 1).to(DTYPE), rank
        nn.init.constant_(self.extra.weight, 0.3)
        nn.init.constant_(self.extra.bias, 0.1)

    def forward(self, x: Tensor, extra: bool | None = None) -> Tensor:
        result: Tensor = self.net(x)
        with_extra = self.rank == 0 if extra is None else extra
        return result + self.extra(x) if with_extra else result


def model_of(case: str, rank: int | None) -> nn.Module:
    small = case.startswith(TALL)
    if case.endswith(("sequences", "table")):
        return Sequences(case.endswith("table"))
    return Unused(rank, small) if case.endswith("unused") else network(3, small=small)


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


SOLVED: dict[str, tuple[str, int]] = {}
"""How the last step of a case was solved, and with which rank."""


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


def clip(case: str, model: nn.Module) -> None:
    if case.endswith("clipped"):
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


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


def sharded(kind: str, world: int) -> str:
    """What is raised where each rank holds a part of every parameter."""
    mesh = init_device_mesh("cpu", (world,))
    model: nn.Module = network(3)
    if kind == "fully_shard":
        fully_shard(model, mesh=mesh)
    elif kind == "FullyShardedDataParallel":
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    else:
        parallelize_module(model, mesh, {"0": ColwiseParallel()})
    try:
        optimizer = RegNewton(model.parameters())
        optimizer.step(lambda: loss_of("auto", model, 0))
    except (TypeError, RankError) as error:
        return str(error)
    return "no error"


SHARDED = ("fully_shard", "FullyShardedDataParallel", "tensor parallelism")


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


COUNTED: dict[str, dict[str, Any]] = {
    "iterations": {"curvature": "gauss_newton", "preconditioner": None},
    "rows gathered": {"curvature": "gauss_newton", "scaling": None},
    "primal, rows apart": {"curvature": "gauss_newton", "scaling": None},
    "primal, rows apart, scaled": {"curvature": "gauss_newton", "scaling": "jacobian"},
    "rows gathered, exact": {"curvature": "hessian", "scaling": None, "hvp": "exact"},
    "low rank": {"curvature": "gauss_newton", "max_memory": 5000},
    "kronecker": {"curvature": "kronecker"},
}


def exchanged(case: str, rank: int) -> dict[str, Any]:
    """Bytes that one rank gives to the exchanges of a step, of flags and of the rest."""
    inner = network(3, small=case.startswith(TALL))
    model = DistributedDataParallel(inner)
    optimizer = RegNewton(model.parameters(), correction=False, **COUNTED[case])
    sizes: list[int] = []
    patch = pytest.MonkeyPatch()

    def counted(name: str, at: int) -> None:
        original = getattr(dist, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            sizes.append(args[at].nbytes)
            return original(*args, **kwargs)

        patch.setattr(dist, name, counting)

    counted("all_reduce", 0)
    counted("all_gather", 1)
    limited, lifts = Scaling.limited, 0

    def lifting(scaling: Scaling, directions: list[Tensor]) -> Scaling | None:
        nonlocal lifts
        larger = limited(scaling, directions)
        lifts += larger is not None
        return larger

    patch.setattr(Scaling, "limited", lifting)
    take, taken = SharedJacobian.take, 0

    def taking(jacobian: SharedJacobian, index: Tensor, scale: Tensor) -> Any:
        nonlocal taken
        taken += len(index)
        return take(jacobian, index, scale)

    patch.setattr(SharedJacobian, "take", taking)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(case, model, rank)
        loss.backward()
        return loss

    optimizer.step(closure)
    patch.undo()
    step = optimizer.last_step
    assert step is not None
    flags = sum(1 for size in sizes if size == 16)
    return {
        "flags": flags,
        "bytes": sum(sizes) - 16 * flags,
        "exchanges": len(sizes) - flags,
        "step": {
            "products": step.products,
            "attempts": step.attempts,
            "path": step.path.name,
            "rank": step.rank,
        },
        "shapes": [tuple(param.shape) for param in inner.parameters()],
        "rows": rows_of(case, 0),
        "lifts": lifts,
        "taken": taken,
    }


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

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of("auto", model, rank)
            loss.backward()
            return loss

        optimizer.step(closure)
    return [flat(inner), inner[1].num_batches_tracked.clone()]


def kronecker(rank: int) -> list[Tensor]:
    """Factors are averaged over the ranks; the parameters at each step, and the loss at the end."""
    inner = network(3)
    model = DistributedDataParallel(inner)
    optimizer = RegNewton(model.parameters(), curvature="kronecker")
    path = []
    for _ in range(3 * STEPS):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of("uneven", model, rank)
            loss.backward()
            return loss

        optimizer.step(closure)
        path.append(flat(inner))
    step = optimizer.last_step
    assert step is not None
    return [*path, torch.tensor([step.loss])]


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
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
