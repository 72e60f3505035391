"""What the trainer's optimizers train, and in what precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .compat import MisconfigurationException


def trained(optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """The parameters that the optimizers train, each once.

    Raises:
        MisconfigurationException: they are complex, of several dtypes or devices, or there
            are none.
    """
    params = {
        id(param): param
        for optimizer in optimizers
        for group in optimizer.param_groups
        for param in group["params"]
        if param.requires_grad
    }
    if any(param.is_complex() for param in params.values()):
        raise MisconfigurationException(
            "CurvatureMonitor needs real parameters: keep the real and imaginary parts as one "
            "real parameter and use torch.view_as_complex in the model"
        )
    kinds = sorted({f"{param.dtype} on {param.device}" for param in params.values()})
    if len(kinds) != 1:
        raise MisconfigurationException(
            "CurvatureMonitor needs trained parameters of one dtype on one device, not "
            f"{', '.join(kinds) or 'none at all'}"
        )
    return list(params.values())


def initialized(module: Any) -> bool:
    """Whether no parameter waits for the first batch, as those of lazy modules do."""
    return not any(
        torch.nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())
    )


def low_precision(trainer: Any) -> float:
    """The unit of rounding of reduced-precision products, 0 where the trainer uses none."""
    precision = str(trainer.precision)
    if "bf16" in precision or "transformer-engine" in precision:
        return float(torch.finfo(torch.bfloat16).eps)
    return float(torch.finfo(torch.float16).eps) if precision.startswith("16") else 0.0
