"""What the trainer's optimizers train, and means over its processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_newton import RegNewton
from torch_newton.preconditioners.scaling import Scaling

from .compat import MisconfigurationException
from .hessian import Numbers


def trained(optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """The parameters that the optimizers train, each once."""
    params = {
        id(param): param
        for optimizer in optimizers
        for group in optimizer.param_groups
        for param in group["params"]
        if param.requires_grad
    }
    kinds = sorted({f"{param.dtype} on {param.device}" for param in params.values()})
    if len(kinds) != 1:
        raise MisconfigurationException(
            "CurvatureMonitor needs trained parameters of one dtype on one device, not "
            f"{', '.join(kinds) or 'none at all'}"
        )
    return list(params.values())


def last_scaling(
    optimizers: Sequence[torch.optim.Optimizer], params: Sequence[Tensor]
) -> Tensor | None:
    """D^{-1/2} of the last step of a `RegNewton`, where that was damped by lambda D."""
    for optimizer in optimizers:
        if isinstance(optimizer, RegNewton) and optimizer.last_step is not None:
            if not optimizer.last_step.system.scaled:
                return None
            return Scaling.kept(optimizer.state, params).vector
    return None


def mean_over_processes(trainer: Any, numbers: Numbers) -> Numbers:
    """The mean of each number over all processes, which must call this together."""
    if trainer.world_size == 1:
        return numbers
    values = torch.tensor(
        list(numbers.values()), dtype=torch.float64, device=trainer.strategy.root_device
    )
    means = trainer.strategy.reduce(values, reduce_op="mean").tolist()
    return dict(zip(numbers, means, strict=True))
