"""What the processes of a training agree on, so that they communicate equally often.

A collective call returns when all processes have made it. Their clocks, costs and data differ, so
no process may decide by its own whether to make one: the first process decides where there is time
to be shared out, and what fails in one has failed in all.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from .outcomes import ElsewhereError, MovedError, OutOfTimeError

T = TypeVar("T")

LATE, MOVED, FAILED = 1.0, 2.0, 3.0
"""How an attempt ended that did not succeed; of several processes the largest counts."""


class Processes:
    """The processes of a training, of which each must make the same calls.

    Args:
        trainer: whose strategy lets them communicate.
    """

    def __init__(self, trainer: Any) -> None:
        self._strategy = trainer.strategy
        self.first: bool = trainer.global_rank == 0

    def from_first(self, thing: T) -> T:
        """What the first process gives; what the others give is not looked at."""
        given: T = self._strategy.broadcast(thing)
        return given

    def any(self, error: Exception | None, *flags: bool) -> list[bool]:
        """Whether each flag is set in any process, unless something was raised in one.

        Args:
            error: what was raised in this process.
            flags: as many in each process.

        Raises:
            OutOfTimeError: in some process there was no time, and in none another failure.
            MovedError: likewise where a point could not be returned to.
            Exception: `error`, where it is neither.
            ElsewhereError: another process has failed otherwise.
        """
        needed = error.needed if isinstance(error, OutOfTimeError) else 0.0
        own = torch.tensor(
            [_severity(error), needed, *map(float, flags)],
            dtype=torch.float64,
            device=self._strategy.root_device,
        )
        # The view keeps the result two-dimensional where there is one process only.
        worst, needed, *found = self._strategy.all_gather(own).view(-1, len(own)).amax(0).tolist()
        if worst == 0.0:
            return [bool(flag) for flag in found]
        if error is not None and _severity(error) == worst and worst != LATE:
            raise error
        if worst == LATE:
            raise OutOfTimeError(needed)
        if worst == MOVED:
            raise MovedError("in another process the loss on the probe batch has changed")
        raise ElsewhereError("another process failed, which says why in a warning of its own")


def _severity(error: Exception | None) -> float:
    if error is None:
        return 0.0
    if isinstance(error, OutOfTimeError):
        return LATE
    return MOVED if isinstance(error, MovedError) else FAILED
