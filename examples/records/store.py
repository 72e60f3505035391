"""Finished runs, one JSON file each: what makes the comparison resumable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Run:
    """One contender on one problem from one seed.

    Attributes:
        budget: seconds that it had.
        steps: how many it took.
        status: why it ended: ``"budget"``, or what was raised.
        compiled: seconds of compilation before the clock started.
        curve: (seconds, steps, loss, lowest error so far), oldest first.
    """

    problem: str
    contender: str
    seed: int
    budget: float
    steps: int = 0
    status: str = "budget"
    compiled: float = 0.0
    curve: list[tuple[float, int, float, float]] = field(default_factory=list)

    def error_at(self, seconds: float) -> float | None:
        """The lowest error until then; None where the run ended before."""
        if self.budget < seconds and self.status == "budget":
            return None
        seen = [error for at, _, _, error in self.curve if at <= seconds]
        return seen[-1] if seen else None

    def reached(self, error: float) -> tuple[float, int] | None:
        """Seconds and steps after which the error was at most this."""
        for seconds, steps, _, lowest in self.curve:
            if lowest <= error:
                return seconds, steps
        return None


class Store:
    """The runs of one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def path(self, problem: str, contender: str, seed: int) -> Path:
        name = f"{problem}--{contender}--{seed}".replace(" ", "").replace("+", "-")
        return self.folder / f"{name}.json"

    def find(self, problem: str, contender: str, seed: int, budget: float = 0.0) -> Run | None:
        """The run, if it is there and had at least this budget."""
        path = self.path(problem, contender, seed)
        if not path.exists():
            return None
        values = json.loads(path.read_text())
        run = Run(**values | {"curve": [tuple(point) for point in values["curve"]]})
        return run if run.budget >= budget else None

    def runs_of(self, problem: str, contender: str) -> list[Run]:
        """Those of all seeds."""
        seeds = {json.loads(path.read_text())["seed"] for path in self.folder.glob("*.json")}
        found = (self.find(problem, contender, seed) for seed in sorted(seeds))
        return [run for run in found if run is not None]

    def contenders(self) -> list[str]:
        """Whose runs are there, by name, RegNewton first."""
        found = {json.loads(path.read_text())["contender"] for path in self.folder.glob("*.json")}
        return sorted(found, key=lambda name: (name != "RegNewton", name))

    def add(self, run: Run) -> None:
        """Write it beside, then rename it: an interruption leaves no half of a file."""
        path = self.path(run.problem, run.contender, run.seed)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(asdict(run)))
        beside.replace(path)
