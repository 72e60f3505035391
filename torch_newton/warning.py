"""Warnings that point at the user's line, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass

INSIDE = ("torch_newton.", "torch.", "lightning_callbacks.", "contextlib")
"""Modules whose frames are passed over; `step` is called through PyTorch's profiling wrapper."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost frame outside this package and PyTorch."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and (frame.f_globals.get("__name__", "") + ".").startswith(
        INSIDE
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


@dataclass
class Once:
    """Gives each kind of warning once.

    Attributes:
        said: the kinds that were given.
    """

    said: frozenset[str] = frozenset()

    def __call__(self, kind: str, message: str, category: type[Warning] = UserWarning) -> None:
        """Warn, unless this kind has been warned of before."""
        if kind not in self.said:
            self.said |= {kind}
            warn(message, category)
