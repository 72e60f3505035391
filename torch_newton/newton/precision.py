"""The precision in which a step is solved."""

from __future__ import annotations

import torch
from torch import Tensor

from ..closure.start import Start
from ..preconditioners.function_space import FunctionSpace


def gradient_in(space: FunctionSpace | None, start: Start) -> tuple[Tensor, float]:
    """The gradient of the function to minimise, in the precision of a space, and its rounding.

    Where that is a higher one, J^T t summed up in it takes the place of autograd's gradient: what
    rounding leaves in that outside the range of J^T would be divided by the damping. Not so where
    the closure has changed ``.grad``, or the rows are not those of the whole loss.
    """
    gradient = start.gradient
    unit = torch.finfo(gradient.dtype).eps
    if space is None or space.dtype is gradient.dtype:
        return gradient, unit
    if space.sums_up and not start.surrogate.accumulated:
        gradient, decay = space.gradient, start.surrogate.decay
        if decay is not None:
            gradient = gradient + decay.gradient.to(space.dtype)
        return gradient, torch.finfo(space.dtype).eps
    return gradient.to(space.dtype), unit
