"""How much of the wall time may be spent measuring."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

ENOUGH_STEPS = 5
"""Training steps that are timed before their median is trusted: the first steps, which allocate
memory and choose kernels, are slower, and a median of five is unmoved by two of them."""

STEPS_KEPT = 50
"""Training steps of which the median is taken: few enough to follow a change of the batch size."""


class Budget:
    """What measuring has cost, what training has, and what may still be spent.

    Args:
        share: of the time spent training, or None for no limit.
        pause: training steps that one measurement may take as long as, or None for no limit.
    """

    def __init__(self, share: float | None, pause: float | None = None) -> None:
        self.share = share
        self.pause = pause
        self.spent: float = 0.0
        self.longest: float = 0.0
        self._last: float | None = None
        self._within = False
        self._began = time.perf_counter()
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)
        self._step_began: float | None = None

    @property
    def training(self) -> float:
        """Seconds since the beginning that were not spent measuring."""
        return time.perf_counter() - self._began - self.spent

    @property
    def step_seconds(self) -> float | None:
        """The median time of a training step, None until `ENOUGH_STEPS` are timed."""
        enough = len(self._steps) >= ENOUGH_STEPS
        return statistics.median(self._steps) if enough else None

    def step_ended(self) -> None:
        """A training step has ended: its time is that since the last one, without measuring."""
        now = self.training
        if self._step_began is not None:
            self._steps.append(now - self._step_began)
        self._step_began = now

    @property
    def longest_pause(self) -> float | None:
        """Seconds that one measurement may take at most, None for no limit."""
        if self.pause is None:
            return None
        return self.pause * (self.step_seconds or 0.0)

    @property
    def remaining(self) -> float | None:
        """Seconds that a measurement may take now, None for no limit."""
        limits = [] if self.share is None else [self.share * self.training - self.spent]
        if self.longest_pause is not None:
            limits.append(self.longest_pause)
        return min(limits, default=None)

    def allows(self) -> bool:
        """Whether there is time for another measurement as costly as the last.

        The first is allowed, because nobody knows what it will cost.
        """
        if self.share is None or self._last is None:
            return True
        return self.spent + self._last <= self.share * self.training

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The time within is that of a measurement."""
        start = time.perf_counter()
        try:
            with self.spending():
                yield
        finally:
            self._last = time.perf_counter() - start

    @contextmanager
    def spending(self) -> Iterator[None]:
        """The time within counts as spent: once, where one such block is within another."""
        if self._within:
            yield
            return
        self._within = True
        start = time.perf_counter()
        try:
            yield
        finally:
            self._within = False
            seconds = time.perf_counter() - start
            self.longest = max(self.longest, seconds)
            self.spent += seconds
