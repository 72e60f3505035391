"""Warnings that are given once."""

from __future__ import annotations

from lightning_utilities.core.rank_zero import rank_zero_warn


class WarnOnce:
    """Warns on the first process, once for each message."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: str, cause: str | None = None) -> None:
        """Warn, unless this was said before.

        Args:
            message: the warning.
            cause: stands for the message where that may differ in numbers from time to time.
        """
        key = message if cause is None else cause
        if key not in self._said:
            self._said.add(key)
            rank_zero_warn(f"CurvatureMonitor: {message}", category=UserWarning)
