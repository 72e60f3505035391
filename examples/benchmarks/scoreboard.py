"""The figures that the suite prints last: RegNewton's defaults against the peers.

A contender that does not reach a target within the budget counts with twice the budget in means
and ratios, and as never in the performance profile. Problems on which nobody reaches the headline
target are left out of means and ratios, and named.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

PENALTY = 2.0  # times the budget
CLOSE = 1.1  # "within 10 % of first"
NOTHING = "no problem on which either reached the target"
OURS, LBFGS = "RegNewton", "L-BFGS"

# problem -> contender -> median time to the headline target over the seeds, inf where unreached
Medians = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Line:
    """One line of the scoreboard; ``value`` is what tests and tables use, ``text`` its reading."""

    name: str
    value: float
    text: str


def charged(time: float, budget: float) -> float:
    """The time that enters means and ratios."""
    return time if math.isfinite(time) else PENALTY * budget


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def solved(medians: Medians) -> list[str]:
    """Problems whose headline target someone reaches."""
    return [name for name, row in medians.items() if any(map(math.isfinite, row.values()))]


def first_or_close(medians: Medians) -> Line:
    names = solved(medians)
    won = [
        name
        for name in names
        if medians[name][OURS]
        <= CLOSE * min(t for other, t in medians[name].items() if other != OURS)
        and math.isfinite(medians[name][OURS])
    ]
    share = len(won) / len(names) if names else math.nan
    unsolved = sorted(set(medians) - set(names))
    text = f"{len(won)} of {len(names)} problems ({share:.0%})"
    if unsolved:
        text += f"; nobody reached the target of {', '.join(unsolved)}"
    return Line("first or within 10 % of first in time to target", share, text)


def worst_ratio(medians: Medians, budgets: Mapping[str, float]) -> Line:
    worst, where, reached = 0.0, "", True
    for name in solved(medians):
        row = medians[name]
        ratio = charged(row[OURS], budgets[name]) / min(row.values())
        if ratio > worst:
            worst, where, reached = ratio, name, math.isfinite(row[OURS])
    sign = "" if reached else "at least "
    return Line("worst ratio to the best contender", worst, f"{sign}{worst:.3g} ({where})")


def speed_up(label: str, medians: Medians, budgets: Mapping[str, float], rivals: list[str]) -> Line:
    """Geometric mean over problems of (best rival's time) / (RegNewton's time)."""
    factors, penalised = [], 0
    for name in solved(medians):
        row = medians[name]
        times = [row[rival] for rival in rivals if rival in row]
        if not times or not (math.isfinite(min(times)) or math.isfinite(row[OURS])):
            continue
        penalised += math.isinf(min(times)) or math.isinf(row[OURS])
        factors.append(charged(min(times), budgets[name]) / charged(row[OURS], budgets[name]))
    if not factors:
        return Line(f"geometric mean of time to target against {label}", math.nan, NOTHING)
    mean = geometric_mean(factors)
    text = f"{mean:.3g} times faster over {len(factors)} problems"
    if penalised:
        text += f" ({penalised} with an unreached target counted at {PENALTY:g} x budget)"
    return Line(f"geometric mean of time to target against {label}", mean, text)


def median_cg(medians: list[float]) -> Line:
    """``medians``: the median CG iterations per step of every run of RegNewton's defaults."""
    value = statistics.median(medians)
    return Line(
        "median CG iterations per step",
        value,
        f"{value:g} over {len(medians)} runs, the largest {max(medians):g}",
    )


def nist_solved(solved_by: Mapping[str, Mapping[int, set[str]]], start: int) -> Line:
    """``solved_by``: contender -> start -> data sets with 6 correct digits in every parameter."""
    counts = {name: len(starts.get(start, ())) for name, starts in solved_by.items()}
    others = ", ".join(f"{name} {count}" for name, count in counts.items() if name != OURS)
    return Line(
        f"NIST solved to 6 correct digits from start {start}",
        counts.get(OURS, 0),
        f"{counts.get(OURS, 0)} (of those run; {others})",
    )
