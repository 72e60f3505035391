"""Errors in reading a graph: one warning, and on with what needs no reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..warning import warn

T = TypeVar("T")


class UnreadableGraphWarning(UserWarning):
    """A loss's graph could not be read, or not all of it: steps take longer, and are as right."""


def attempt(function: Callable[[], T]) -> tuple[T | None, str | None]:
    """What a function returns, or in words the error that it has raised.

    The graph of a stranger's model, or of another release of PyTorch, may hold anything, and
    nothing that is read off it is needed for a step; so any error will do. One that says that
    memory is exhausted is raised, since what follows would need more of it.
    """
    try:
        return function(), None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def warn_unreadable(message: str | None) -> None:
    """Warn with a message, where there is one; Python shows it once for each line that steps."""
    if message is not None:
        warn(f"{message}. This costs speed and not correctness", UnreadableGraphWarning)
