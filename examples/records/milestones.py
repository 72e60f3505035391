"""Steps to the errors at which sources state theirs: python -m examples.records.milestones --help.

Steps depend on no clock, so that a busy machine counts them as a quiet one does. The error is
looked at after every step, and a run ends with its last milestone or with the source's number of
steps.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import trange

from .__main__ import names
from .contenders import CONTENDERS
from .problem import Problem
from .problems import PROBLEMS
from .report import DASH, OURS
from .runner import closure_of, default_dtype


@dataclass
class Count:
    """Of one seed.

    Attributes:
        steps: for each milestone the steps to it; None where the source's number was not enough.
        error: the lowest seen.
    """

    steps: list[int | None]
    error: float = math.inf


WITH_MILESTONES = [name for name, problem in PROBLEMS.items() if problem.milestones]


def count(problem: Problem, seed: int) -> Count:
    """Train with the defaults until every milestone is met, or its published steps are spent."""
    found = Count([None] * len(problem.milestones))
    with default_dtype(problem.dtype):
        torch.manual_seed(seed)
        training = problem.build(seed)
        take = CONTENDERS[OURS](list(training.net.parameters()), 0.0)
        closure = closure_of(training)
        most = max(goal.steps for goal in problem.milestones)
        for step in trange(1, most + 1, desc=f"{problem.name} {seed}", leave=False):
            if problem.draw_every and (step - 1) % problem.draw_every == 0:
                training.redraw()
            take(closure)
            found.error = min(found.error, training.error())
            for k, goal in enumerate(problem.milestones):
                if found.steps[k] is None and step <= goal.steps and found.error <= goal.error:
                    found.steps[k] = step
            if None not in found.steps:
                break
    return found


def median(counts: Sequence[int | None]) -> str:
    """The median; a dash where it is one of the seeds that missed the milestone."""
    missed = sum(steps is None for steps in counts)
    if 2 * missed >= len(counts):
        return DASH
    ordered = sorted(float("inf") if steps is None else steps for steps in counts)
    return f"{statistics.median(ordered):g}"


def lines(problem: Problem, found: Sequence[Count]) -> list[str]:
    """A line of the table for each milestone of a problem; for a miss the lowest error."""
    table = []
    for k, goal in enumerate(problem.milestones):
        steps = [seed.steps[k] for seed in found]
        each = ", ".join(
            f"{DASH} ({seed.error:.1e})" if n is None else str(n)
            for n, seed in zip(steps, found, strict=True)
        )
        cells = [f"`{problem.name}`", f"{goal.error:.0e}", median(steps), each]
        table.append(f"| {' | '.join(cells)} | {goal.steps} ({goal.method}) |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.records.milestones", description=__doc__
    )
    parser.add_argument("--problems", type=names, default=WITH_MILESTONES, help="all if none")
    parser.add_argument("--seeds", type=names, default=["0", "1", "2"], help="0,1,2 if none")
    parser.add_argument("--threads", type=int, default=2, help="2 if none")
    parser.add_argument("--output", type=Path, default=Path("output/records"), help="for results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.output / "milestones"
    folder.mkdir(parents=True, exist_ok=True)
    table = ["| problem | error | median | seeds | published |", f"|{' --- |' * 5}"]
    for name in options.problems:
        found = []
        for seed in options.seeds:
            path = folder / f"{name}--{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(asdict(count(PROBLEMS[name], int(seed)))))
            found.append(Count(**json.loads(path.read_text())))
        table += lines(PROBLEMS[name], found)
    print("\n".join(table))


if __name__ == "__main__":
    main()
