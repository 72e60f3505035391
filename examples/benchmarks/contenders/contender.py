"""What a contender is: a loop over one peer's own step, and where its settings come from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..task import Task

Setting = Mapping[str, float]


@dataclass(frozen=True)
class Contender:
    """``run(task, setting)`` loops until the task ends it, or the peer has converged.

    ``grid``: the settings among which the suite chooses per problem, each with a full run.
    """

    name: str
    kind: Literal["ours", "newton", "quasi-newton", "first-order"]
    run: Callable[[Task, Setting], None] = field(repr=False)
    module: str
    requirement: str
    settings: str
    source: str
    grid: tuple[Setting, ...] = ({},)

    def missing(self) -> str | None:
        """Why this contender cannot run here at all, or None."""
        try:
            found = importlib.util.find_spec(self.module) is not None
        except ImportError:
            found = False
        return None if found else f"not installed: pip install {self.requirement}"


def loop(task: Task, step: Callable[[], object], evaluate: bool = False) -> None:
    """Step until the task ends the run by raising Finished."""
    while True:
        step()
        task.tick(evaluate)
