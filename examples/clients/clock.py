"""Equal processor time: a shared machine's clock on the wall says little."""

from __future__ import annotations

import time


class TimeUpError(Exception):
    """Raised from within a trainer that knows no other way to end."""


class Clock:
    """Processor seconds since it was made, of all threads of this process."""

    def __init__(self, limit: float = float("inf")) -> None:
        self.begin, self.limit = time.process_time(), limit

    @property
    def seconds(self) -> float:
        return time.process_time() - self.begin

    @property
    def up(self) -> bool:
        return self.seconds > self.limit

    def check(self) -> None:
        """Raise where the time is up.

        Raises:
            TimeUpError: it is.
        """
        if self.up:
            raise TimeUpError
