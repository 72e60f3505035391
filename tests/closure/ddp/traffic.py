"""What the exchanges of a step carry."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.closure.ddp.problems import TALL, loss_of, network, rows_of
from torch_newton import RegNewton
from torch_newton.closure.shared_rows import SharedJacobian
from torch_newton.preconditioners.scaling import Scaling

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
