"""The time that one measurement may take, in the pause of now and in all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from torch_newton import LinearOperator

from .costs import Costs
from .outcomes import OutOfTimeError
from .processes import Processes

SAFETY = 1.5
"""How much longer than the longest of late a piece may take, and still end in its pause, at least.
On a shared machine with two busy cores, times of the same product differed by up to a third; the
rest is for what is done between the pieces. Where a piece of the run has been later than that, as
late is reckoned with (`Allowance.with_reserve`)."""

BLOCK = 16
"""Columns of a matrix of which the time is taken, to learn what many products cost together."""

T = TypeVar("T")

__all__ = ["BLOCK", "SAFETY", "Allowance", "Costs", "OutOfTimeError"]


class Allowance:
    """The seconds that a measurement may take, and how much of them in the present pause.

    A measurement is spread over one pause of the training or several. What may be left for a
    later pause asks `plans`, what must be done in this one asks `affords` or `require`.

    Several processes share the clock and the costs of the first one. These are read where all
    processes meet (`shared`, `together`), and do not change in between: whatever is decided by
    them is decided alike in all processes, and takes no communication.

    Args:
        seconds: that it may take in all; None for no limit, where everything is computed in full.
        costs: what things took at earlier measurements.
        device: that is waited for before the clock is read.
        processes: those that measure together; None where there is one.

    Attributes:
        reduced: whether something was computed with less than full effort, or not at all.
        lacking: the seconds that each quantity needs at least for which there was no time.
        step: seconds of a training step, 0 where that is not known.
        tick: told how many products were taken, where nothing limits them.
    """

    def __init__(
        self,
        seconds: float | None = None,
        costs: Costs | None = None,
        device: torch.device | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.costs: Costs = Costs() if costs is None else costs
        self.reduced: bool = False
        self.lacking: dict[str, float] = {}
        self.step: float = 0.0
        self.tick: Callable[[int], object] = lambda count: None
        self._seconds = seconds
        self._share = seconds
        self._device = device
        self.processes = processes
        self._shared_in_pause = 0.0
        self._spent = 0.0
        self._began: float | None = None
        self._pause = seconds
        if processes is not None:
            self.costs.hold()
        if seconds is not None:
            self.resume(seconds)

    @property
    def unlimited(self) -> bool:
        """Whether everything is computed in full."""
        return self._seconds is None

    @property
    def spent(self) -> float:
        """Seconds taken so far."""
        return self._spent + self.in_pause

    @property
    def in_pause(self) -> float:
        """Seconds since the present pause began, 0 where there is none."""
        if self._began is None:
            return 0.0
        return self._own_in_pause() if self.processes is None else self._shared_in_pause

    def now(self) -> float:
        """The clock, after the device has done what it was given."""
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def resume(self, seconds: float | None, began: float | None = None) -> None:
        """A pause begins, and is so long.

        Args:
            seconds: from the beginning on.
            began: when that was; now, where None.
        """
        self._began = self.now() if began is None else began
        self._pause = self.shared(lambda: seconds)

    def suspend(self) -> None:
        """The pause ends."""
        self._spent, self._began = self.spent, None

    def begin(self, left: int) -> None:
        """What follows may take an equal share of the rest, with `left` things to do in all."""
        if self._seconds is not None:
            spent = self.spent
            self._share = spent + max(0.0, self._seconds - spent) / left

    def rest(self) -> float:
        """Seconds left of all shares, in this pause and others."""
        return math.inf if self._seconds is None else max(0.0, self._seconds - self.spent)

    def planned(self) -> float:
        """Seconds left of this share, in this pause and others."""
        return math.inf if self._share is None else max(0.0, self._share - self.spent)

    def left(self) -> float:
        """Seconds left of this share in this pause."""
        return min(self.planned(), self._left_of_pause())

    def shared(self, of_first: Callable[[], T]) -> T:
        """Take over the clock and the costs of the first process, which all must do together.

        Args:
            of_first: called in the first process only, when its clock and costs are known.

        Returns:
            What it returned there.
        """
        if self.processes is None:
            return of_first()
        message = (self._own_in_pause(), self.costs.held(), None)
        if self.processes.first:
            self._take_over(*message[:2])
            message = (*message[:2], of_first())  # type: ignore[assignment]
        seconds, noted, answer = self.processes.from_first(message)
        if not self.processes.first:
            self._take_over(seconds, noted)
        return answer  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes leave alike: what is raised in one is raised in all.

        Raises:
            ElsewhereError: another process has failed; see `Processes.any`.
        """
        if self.processes is None:
            yield
            return
        raised: Exception | None = None
        try:
            yield
        except Exception as error:
            raised = error
        self.processes.any(raised)
        self.shared(lambda: None)

    def anywhere(self, flag: bool) -> bool:
        """Whether something is so in any process; all must ask this together."""
        return flag if self.processes is None else self.processes.any(None, flag)[0]

    def reckon(self, seconds: float) -> None:
        """Count something as taken that was done between two readings of the shared clock."""
        if self.processes is not None:
            self._shared_in_pause += seconds

    def plans(self, seconds: float) -> bool:
        """Whether so many seconds are left of this share, in this pause and others."""
        return seconds <= self.planned()

    def fits(self, seconds: float) -> bool:
        """Whether what is reckoned to take so long ends in this pause, even if it takes longer."""
        return self.with_reserve(seconds) <= self._left_of_pause()

    def with_reserve(self, seconds: float) -> float:
        """What must be left for something that is reckoned to take so long.

        It may take `SAFETY` times as long, or be as late as the latest piece was of late
        (`Costs.late`), whichever is more.
        """
        return max(SAFETY * seconds, seconds + self.costs.late)

    def affords(self, seconds: float) -> bool:
        """Whether so many seconds are left of this share, and fit in this pause."""
        return seconds <= self.planned() and self.fits(seconds)

    def require(self, seconds: float) -> None:
        """Raise where the rest of this pause is shorter, whatever the share is.

        Raises:
            OutOfTimeError: it is.
        """
        if not self.fits(seconds):
            self.reduced = True
            raise OutOfTimeError(seconds)

    def estimate(self, name: str, guess: float = 0.0) -> float:
        """Seconds that a thing is reckoned to take: as it took before, or a guess."""
        return self.costs.estimate(name, guess)

    def timed(self, A: LinearOperator, name: str) -> LinearOperator:
        """The same operator, which notes what a product with a vector takes."""

        def product(
            multiply: Callable[[torch.Tensor], torch.Tensor],
        ) -> Callable[..., torch.Tensor]:
            def timed(v: torch.Tensor) -> torch.Tensor:
                start = self.now()
                result = multiply(v)
                self.costs.put(name, self.now() - start)
                return result

            return timed

        return LinearOperator(
            A.shape, product(A.matvec), product(A.rmatvec), A.dtype, A.device, A.matmat, A.rmatmat
        )

    def _left_of_pause(self) -> float:
        if self._pause is None or self._began is None:
            return math.inf
        return max(0.0, self._pause - self.in_pause)

    def _own_in_pause(self) -> float:
        return 0.0 if self._began is None else self.now() - self._began

    def _take_over(self, seconds: float, noted: list[tuple[str, float]]) -> None:
        self._shared_in_pause = seconds
        for name, taken in noted:
            self.costs.learn(name, taken)
