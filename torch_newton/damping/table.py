"""The table of damping rules that have a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from .base import AnyRule, DampingRule, checked
from .fixed import Fixed

RULES: dict[str, Callable[[], DampingRule]] = {}
"""Rules by their names, each as what makes one with its default constants; filled in the room's
``__init__.py``. Users may add their own."""


def damping_rule(damping: str | float | AnyRule) -> AnyRule:
    """The rule that `damping` stands for: a name in `RULES`, a number, or a rule itself.

    Raises:
        ValueError: an unknown name, or a number that is negative or not finite.
        TypeError: none of these, or a rule that is half a `RetryingRule`.
    """
    if isinstance(damping, str):
        if damping not in RULES:
            with suppress(ValueError):  # a number from a command line or a configuration file
                return damping_rule(float(damping))
            names = ", ".join(repr(name) for name in RULES)
            raise ValueError(f"unknown damping {damping!r}: use {names}, a number or a callable")
        return RULES[damping]()
    if isinstance(damping, (int, float)) and not isinstance(damping, bool):
        if not (damping >= 0 and math.isfinite(damping)):
            raise ValueError(f"damping must be a finite number >= 0, not {damping}")
        return Fixed(float(damping))
    if callable(damping):
        return checked(damping)
    raise TypeError(f"damping must be a name, a number or a callable, not {type(damping).__name__}")
