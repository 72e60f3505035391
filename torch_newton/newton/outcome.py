"""What a step leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..step import Step
from .memory import Memory


@dataclass(frozen=True)
class Outcome:
    """What a step leaves behind.

    Attributes:
        returned: what the closure returned, or the loss before the step where that was nothing.
        step: what was done.
        memory: what the next step depends on.
        underdetermined: whether a Gauss-Newton matrix of no more rows than parameters was used.
    """

    returned: Any
    step: Step
    memory: Memory
    underdetermined: bool
