"""Exceptions by which a closure says that its loss is not defined at a trial point.

``Normal(mean, scale)`` where a step makes the scale negative, or ``torch.linalg.cholesky`` where it
makes a matrix indefinite, raise instead of returning NaN. Where the step began the same closure
has returned a loss, so that a shorter step will do, as for a loss that is not finite.
"""

from __future__ import annotations

import torch

from .capture import ClosureError
from .distributed import RankError

FATAL: tuple[type[Exception], ...] = (
    ClosureError,
    RankError,
    MemoryError,
    torch.OutOfMemoryError,
    *([torch.AcceleratorError] if hasattr(torch, "AcceleratorError") else []),
)
"""What no other point would cure: a closure that cannot be used at all, or the machine."""

FATAL_TEXTS = ("out of memory", "allocate memory", "CUDA error")
"""Of a bare RuntimeError of the same kind: PyTorch's allocator on the CPU raises nothing else."""


def is_fatal(error: Exception) -> bool:
    """Whether an exception at a trial point ends the step."""
    return isinstance(error, FATAL) or any(text in str(error) for text in FATAL_TEXTS)


def undefined(error: Exception) -> str:
    """What to say of one that does not."""
    text = str(error).strip().split("\n")[0]
    return (
        f"the closure raised {type(error).__name__} at a point that a step tried"
        f"{f' ({text[:200]})' if text else ''}. It counts as a loss that is not finite, and the "
        "step is refused there; where the step began, an exception is raised as ever"
    )
