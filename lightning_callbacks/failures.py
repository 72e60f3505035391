"""What is raised in a measurement becomes one warning, and training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from torch_newton.autodiff.products import NotTwiceDifferentiableError

from .outcomes import OutOfTimeError

EXHAUSTED = (torch.OutOfMemoryError, MemoryError)
"""Memory has run out."""


class WrongQuantityError(ValueError):
    """A quantity breaks its own documentation, which no warning should cover up."""


class BatchError(RuntimeError):
    """The probe batch cannot be kept."""


class Failures:
    """Warns of what fails, once for each cause.

    Args:
        strict: whether to raise instead.
        warn: called with the cause and the cure.
    """

    def __init__(self, strict: bool, warn: Callable[[str, str], None]) -> None:
        self._strict = strict
        self._warn = warn

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """A block that an exception leaves at its end, after a warning.

        Only an `Exception` counts: an interrupt ends training as ever. So does what a quantity
        breaks of its own documentation; and what there is no time for is its caller's concern.

        Args:
            what: is done in the block, as the subject of a sentence.
        """
        try:
            yield
        except (OutOfTimeError, WrongQuantityError):
            raise
        except Exception as error:
            if self._strict:
                raise
            first = (str(error).strip().splitlines() or ["no message"])[0]
            self._warn(
                f"{what} failed, and NaN is logged: {type(error).__name__}: {first}. {cure(error)} "
                "(Training goes on as without the monitor; strict=True raises instead.)",
                f"{type(error).__name__} {first[:40]}",
            )
            exhausted = isinstance(error, EXHAUSTED)
            # The frames of the traceback hold the graph, and with it most of the memory.
            error.__traceback__ = None
            if exhausted and torch.cuda.is_available():
                torch.cuda.empty_cache()


def cure(error: Exception) -> str:
    """What the user can do about an error."""
    if isinstance(error, EXHAUSTED):
        return "Give a smaller batch as probe=, or fewer quantities."
    if isinstance(error, BatchError):
        return "Give probe=callable(module) that returns a batch."
    if isinstance(error, NotTwiceDifferentiableError):
        return "Quantities that need no Hessian, as quantities=('ntk',), can still be measured."
    return (
        "If training_step cannot be called outside the training loop, give "
        "loss=callable(module, batch) that returns the loss; or leave out of quantities= what "
        "cannot be computed for this loss."
    )
