"""The table: published errors, and ours at equal settings after given times."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from .problem import Problem
from .store import Run, Store

TIMES = (10, 30, 100, 300, 1000)
OURS = "RegNewton"
DASH = "-"


def runs_of(store: Store, problem: Problem, contender: str, seeds: Iterable[int]) -> list[Run]:
    found = (store.find(problem.name, contender, seed) for seed in seeds)
    return [run for run in found if run is not None]


def median_error(runs: Sequence[Run], seconds: float) -> float | None:
    """The median of the lowest error until then, over the seeds that ran so long; None if none."""
    errors = [run.error_at(seconds) for run in runs]
    known = [error for error in errors if error is not None]
    return statistics.median(known) if known else None


def median_time(runs: Sequence[Run], error: float) -> tuple[float, float] | None:
    """Median seconds and steps to an error; None where half of the seeds or more miss it."""
    reached = [run.reached(error) for run in runs]
    hits = sorted(hit for hit in reached if hit is not None)
    if not runs or 2 * len(hits) <= len(runs):
        return None
    # Seeds that miss it count as slower than any that reach it.
    low, high = (len(runs) - 1) // 2, len(runs) // 2
    if high >= len(hits):
        return None
    return (hits[low][0] + hits[high][0]) / 2, (hits[low][1] + hits[high][1]) / 2


def number(value: float | None, form: str = ".1e") -> str:
    return DASH if value is None else format(value, form)


def source(problem: Problem) -> str:
    """The best published error, who reached it, and in which time on what."""
    if not problem.published:
        return DASH
    best = problem.published[0]
    time = "" if best.seconds is None else f", {best.seconds:g} s ({best.hardware})"
    return f"{best.error:.1e} {best.method}{time}"


def milestones(problem: Problem, runs: Sequence[Run]) -> str:
    """Steps to each published milestone: ours of theirs."""
    parts = []
    for goal in problem.milestones:
        hit = median_time(runs, goal.error)
        ours = DASH if hit is None else f"{hit[1]:.0f}"
        parts.append(f"{goal.error:.0e}: {ours} of {goal.steps} ({goal.method})")
    return "; ".join(parts) or DASH


def table(problems: Iterable[Problem], store: Store, seeds: Sequence[int]) -> str:
    """One line for each problem, RegNewton's."""
    head = ["problem", "R", "P", "dtype", "published"]
    head += [f"{seconds} s" for seconds in TIMES] + ["steps to milestones", "seeds"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    notes = []
    for problem in problems:
        runs = runs_of(store, problem, OURS, seeds)
        name = problem.name + (" \\*" if problem.differs else "")
        if problem.differs:
            notes.append(f"\\* {problem.name}: {problem.differs}")
        cells = [name, f"{problem.rows:,}", f"{problem.parameters:,}"]
        cells += [str(problem.dtype).removeprefix("torch."), source(problem)]
        cells += [number(median_error(runs, seconds)) for seconds in TIMES]
        cells += [milestones(problem, runs), str(len(runs))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *notes])


def factors(
    problems: Iterable[Problem], store: Store, contenders: Sequence[str], seeds: Sequence[int]
) -> list[float]:
    """For each problem the lowest error of a peer over ours, where both ran equally long."""
    found = []
    for problem in problems:
        errors = at_equal_time(problem, store, contenders, seeds)[1]
        ours, others = errors.pop(OURS, None), [e for e in errors.values() if e is not None]
        if ours is not None and others:
            found.append(min(others) / ours)
    return found


def won(problems: Iterable[Problem], store: Store, seeds: Sequence[int]) -> str:
    """How often RegNewton is below the best peer, and by which factor."""
    found = factors(problems, store, store.contenders(), seeds)
    below = [sum(factor >= least for factor in found) for least in (1, 10, 100)]
    return (
        f"At equal time below the best peer: {below[0]} of {len(found)}; by a factor of 10: "
        f"{below[1]}; of 100: {below[2]}; above by more than 2: "
        f"{sum(factor < 0.5 for factor in found)}."
    )


def at_equal_time(
    problem: Problem, store: Store, contenders: Sequence[str], seeds: Sequence[int]
) -> tuple[float, dict[str, float | None]]:
    """The longest time that all runs of a problem have had, and each contender's error then."""
    runs = {name: runs_of(store, problem, name, seeds) for name in contenders}
    budgets = [run.budget for found in runs.values() for run in found]
    seconds = min(budgets, default=0.0)
    return seconds, {name: median_error(found, seconds) for name, found in runs.items()}


def peers(
    problems: Iterable[Problem], store: Store, contenders: Sequence[str], seeds: Sequence[int]
) -> str:
    """The error of every contender at the longest time that all of a problem's runs have had."""
    lines = [f"| problem | seconds | {' | '.join(contenders)} |"]
    lines.append(f"|{' --- |' * (len(contenders) + 2)}")
    for problem in problems:
        seconds, errors = at_equal_time(problem, store, contenders, seeds)
        if seconds > 0:
            cells = [number(errors[name]) for name in contenders]
            lines.append(f"| {problem.name} | {seconds:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tally(problems: Iterable[Problem], store: Store, seeds: Sequence[int]) -> str:
    """How many published errors are reached at equal settings, and how."""
    counted = reached = tenfold = hundredfold = sooner = timed = goals = met = halved = 0
    for problem in problems:
        runs = runs_of(store, problem, OURS, seeds)
        if not runs or not problem.published or problem.differs:
            continue
        best = problem.published[0]
        counted += 1
        hit = median_time(runs, best.error)
        reached += hit is not None
        tenfold += median_time(runs, best.error / 10) is not None
        hundredfold += median_time(runs, best.error / 100) is not None
        timed += best.seconds is not None
        sooner += hit is not None and best.seconds is not None and hit[0] < best.seconds
        for goal in problem.milestones:
            goals += 1
            steps = median_time(runs, goal.error)
            met += steps is not None and steps[1] < goal.steps
            halved += steps is not None and 2 * steps[1] <= goal.steps
    return (
        f"Published errors reached: {reached} of {counted}; by a factor of 10: {tenfold}; "
        f"of 100: {hundredfold}; "
        f"in less time than the source took, where it says so: {sooner} of {timed}; "
        f"milestones in fewer steps: {met} of {goals}; in half as many: {halved}."
    )
