"""Whether two runs of the suite tell the same story.

They agree on a problem where the same contender is first, or where the two that were first are
tied in one of the runs; and on a contender's time where the median of one run lies within the
range of the other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

# problem -> contender -> times to the headline target, one a seed, inf where unreached
Times = Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True)
class Agreement:
    """Counts of what two runs agree on, and the names of what they do not.

    Attributes:
        winners: problems with the same winner, or a tie within the ranges.
        solved: problems that some contender solves in both runs.
        medians: pairs of a problem and a contender with a median in the other run's range.
        pairs: all pairs of which either run has reached the target.
        other_winners: the problems of another winner.
    """

    winners: int
    solved: int
    medians: int
    pairs: int
    other_winners: list[str]

    def lines(self) -> list[str]:
        others = f"; not on {', '.join(self.other_winners)}" if self.other_winners else ""
        return [
            f"- the same winner, or a tie within the ranges: {self.winners} of {self.solved} "
            f"problems{others}",
            f"- medians within the other run's range: {self.medians} of {self.pairs}",
        ]


def within(median: float, times: list[float]) -> bool:
    """Whether a median lies in the range of `times`, where never is a time too."""
    return min(times) <= median <= max(times)


def first(row: Mapping[str, list[float]]) -> str | None:
    """The contender of the lowest median; None where nobody reaches the target."""
    medians = {name: statistics.median(times) for name, times in row.items() if times}
    best = min(medians, key=medians.__getitem__, default=None)
    return best if best is not None and math.isfinite(medians[best]) else None


def tied(row: Mapping[str, list[float]], one: str, other: str) -> bool:
    """Whether the median of one contender lies within the range of the other."""
    a, b = row[one], row[other]
    return within(statistics.median(a), b) or within(statistics.median(b), a)


def compare(one: Times, other: Times) -> Agreement:
    """How far two runs of the same problems and contenders agree."""
    winners = solved = medians = pairs = 0
    other_winners = []
    for problem in sorted(set(one) & set(other)):
        rows = one[problem], other[problem]
        best = first(rows[0]), first(rows[1])
        if best[0] is not None and best[1] is not None:
            solved += 1
            if best[0] == best[1] or any(tied(row, best[0], best[1]) for row in rows):
                winners += 1
            else:
                other_winners.append(f"{problem} ({best[0]}, {best[1]})")
        for name in sorted(set(rows[0]) & set(rows[1])):
            times = rows[0][name], rows[1][name]
            middle = statistics.median(times[0]), statistics.median(times[1])
            if not all(times) or all(map(math.isinf, middle)):
                continue
            pairs += 1
            medians += within(middle[0], times[1]) or within(middle[1], times[0])
    return Agreement(winners, solved, medians, pairs, other_winners)
