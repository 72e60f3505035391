"""The best value so far after fixed times, read off the curves: what a longer budget buys."""

from __future__ import annotations

import math
import statistics

from .problem import Problem
from .store import Record

TIMES = (4.0, 30.0, 120.0)
"""Seconds: the standard budget, and what users wait for while they look, and while they do not."""


def value_at(record: Record, problem: Problem, seconds: float) -> float:
    """The lowest loss or error until then, in the problem's measure; infinite if there is none.

    A run that reached its hardest target, and ended, keeps its last value: an upper bound.
    """
    column = 2 if problem.measure == "loss" else 3
    seen = [point[column] for point in record.get("curve", []) if point[0] <= seconds]
    known = [value for value in seen if value is not None]
    return min(known, default=math.inf)


def lines(
    problems: list[Problem], table: dict[tuple[str, str], list[Record]], names: list[str]
) -> list[str]:
    """One row a problem: medians over seeds after each of the times that its runs had."""
    rows = []
    for problem in problems:
        found = {name: records for name in names if (records := table.get((problem.name, name)))}
        budget = min((r["budget"] for records in found.values() for r in records), default=0.0)
        times = [seconds for seconds in TIMES if seconds <= budget]
        if not times:
            continue
        cells = [
            " / ".join(_median(found.get(name, []), problem, seconds) for seconds in times)
            for name in names
        ]
        after = " / ".join(f"{seconds:g}" for seconds in times)
        rows.append(f"| {problem.name} | {after} | {' | '.join(cells)} |")
    head = ["problem", "after seconds", *names]
    if not rows:
        return []
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *rows, ""]


def _median(records: list[Record], problem: Problem, seconds: float) -> str:
    values = [value_at(record, problem, seconds) for record in records]
    middle = statistics.median(values) if values else math.inf
    return "-" if math.isinf(middle) else f"{middle:.0e}"
