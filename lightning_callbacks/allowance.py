"""The time that one measurement may take, handed out to what is computed in it."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections import deque
from collections.abc import Callable

import torch

from torch_newton import LinearOperator

RESERVE = 0.75
"""The share of the time allowed that is planned with. The rest is for restoring the module and
logging, and for products that take longer than those timed: on a shared machine with two busy
cores, times of the same product differed by up to a third."""

KEPT = 5
"""Times of a thing of which the median is its estimate: a shared machine is now and then several
times slower for a moment, and a median of five is unmoved by two such moments."""

BENEFIT = 3.0
"""How much smaller a guess becomes when it is all that stands in the way: about what guesses were
too high by in the networks of examples/benchmarks/monitor_overhead.py."""

BLOCK = 16
"""Columns of a matrix of which the time is taken, to learn what many products cost together."""


class OutOfTimeError(RuntimeError):
    """What is to be computed takes more time than is left.

    Attributes:
        needed: seconds that its cheapest useful form takes.
    """

    def __init__(self, needed: float) -> None:
        super().__init__(f"this takes {needed:.3g} s, more than is left of what is allowed")
        self.needed = needed


class Costs:
    """Seconds that things took, by their names."""

    def __init__(self) -> None:
        self._known: dict[str, deque[float]] = {}

    def of(self, name: str) -> float | None:
        """The median of the last `KEPT` times, None where there is none."""
        known = self._known.get(name)
        return statistics.median(known) if known else None

    def last(self, name: str) -> float:
        """The last time, 0 where there is none."""
        known = self._known.get(name)
        return known[-1] if known else 0.0

    def put(self, name: str, seconds: float) -> None:
        """A thing was done in so many seconds."""
        self._known.setdefault(name, deque(maxlen=KEPT)).append(seconds)


class Allowance:
    """The seconds that a measurement may take.

    Args:
        seconds: from now on; None for no limit, where everything is computed in full.
        costs: what things took at earlier measurements.
        device: that is waited for before the clock is read.
        agree: several processes must take as many products each, since a layer may communicate in
            its backward pass: this replaces each process's number by that of the first.
        longest: whether this is as much time as will ever be allowed.

    Attributes:
        reduced: whether something was computed with less than full effort, or not at all.
        lacking: the seconds that each quantity needs at least for which there was no time.
    """

    def __init__(
        self,
        seconds: float | None = None,
        costs: Costs | None = None,
        device: torch.device | None = None,
        agree: Callable[[float], float] | None = None,
        *,
        longest: bool = False,
    ) -> None:
        self.costs = Costs() if costs is None else costs
        self.reduced = False
        self.lacking: dict[str, float] = {}
        self._device = device
        self._agree = agree
        self._longest = longest
        self._end = None if seconds is None else self.now() + RESERVE * seconds
        self._until = self._end

    @property
    def unlimited(self) -> bool:
        """Whether everything is computed in full."""
        return self._end is None

    def now(self) -> float:
        """The clock, after the device has done what it was given."""
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def part(self, left: int) -> Allowance:
        """An equal share of the rest as an allowance of its own, with `left` things to do in all.

        What it lacks and whether it was reduced is told here, too.
        """
        if self._end is None:
            return self
        share = copy.copy(self)
        now = self.now()
        share._end = share._until = now + max(0.0, self._end - now) / left
        return share

    def begin(self, left: int) -> None:
        """What follows may take an equal share of the rest, with `left` things to do in all."""
        if self._end is not None:
            now = self.now()
            self._until = now + max(0.0, self._end - now) / left

    def left(self) -> float:
        """Seconds left of this share."""
        if self._until is None:
            return math.inf
        seconds = max(0.0, self._until - self.now())
        return seconds if self._agree is None else self._agree(seconds)

    def affords(self, seconds: float) -> bool:
        """Whether so many seconds are left of this share."""
        return seconds <= self.left()

    def require(self, seconds: float) -> None:
        """Raise where even the rest of all shares is shorter.

        Raises:
            OutOfTimeError: it is.
        """
        if self._end is None:
            return
        rest = self._end - self.now()
        if seconds > (rest if self._agree is None else self._agree(rest)):
            self.reduced = True
            raise OutOfTimeError(seconds)

    def more(self, cost: float) -> bool:
        """Whether another product of this cost ends in time.

        Several processes do not look at their clocks here: each takes as many as were agreed.
        """
        return self._agree is not None or self.affords(cost)

    def estimate(self, name: str, guess: float = 0.0) -> float:
        """Seconds that a thing takes: as it took before, or a guess.

        No more time will ever be allowed than the longest pause: then a guess that is too high
        must not keep the thing from being tried.
        """
        known = self.costs.of(name)
        if known is None:
            return guess / BENEFIT if self._longest else guess
        return known

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

    def seconds_to_form(self, A: LinearOperator, product: float) -> float:
        """An estimate of what all columns of A take, from the first `BLOCK` of them.

        Args:
            A: n x n.
            product: seconds that one product takes alone.
        """
        n = A.shape[1]
        if n <= BLOCK or not self.affords(BLOCK * product):
            return n * product
        block = torch.eye(n, BLOCK, dtype=A.dtype, device=A.device)
        start = self.now()
        A @ block
        return (self.now() - start) * n / BLOCK
