"""How much of the wall time may be spent measuring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Allows a measurement where the share of time spent measuring stays below a maximum.

    The first is always allowed, because nobody knows what it will cost; after it, one is
    allowed where the sum, with another as costly as the last, stays below.

    Args:
        share: of the time spent training, or None for no limit.
    """

    def __init__(self, share: float | None) -> None:
        self.share = share
        self.spent = 0.0
        self._last: float | None = None
        self._began = time.perf_counter()

    @property
    def training(self) -> float:
        """Seconds since the beginning that were not spent measuring."""
        return time.perf_counter() - self._began - self.spent

    def allows(self) -> bool:
        """Whether there is time for another measurement."""
        if self.share is None or self._last is None:
            return True
        return self.spent + self._last <= self.share * self.training

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The time within counts as spent."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._last = time.perf_counter() - start
            self.spent += self._last
