"""The same damping at every step."""

from __future__ import annotations

from dataclasses import dataclass

from ..step import Step
from .base import DampingRule
from .context import DampingContext


@dataclass(frozen=True)
class Fixed(DampingRule):
    """The same lambda at every step, absolute: (H + lambda I) d = -g is solved and taken."""

    value: float

    def __call__(self, last: Step | None, context: DampingContext) -> float:
        return self.value
