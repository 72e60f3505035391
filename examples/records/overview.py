"""All problems in one picture: error and time relative to those that were published.

Below one a published error is reached, and left of one in less time than its source took on a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .pictures import STYLE
from .problem import Problem
from .report import OURS
from .store import Run, Store

LINES = ("-", "--", ":")
"""Ten colours are not enough for all problems."""


def anchor(problem: Problem) -> tuple[float, float] | None:
    """Error and seconds of the best published result, or of the hardest timed milestone."""
    timed = [best for best in problem.published[:1] if best.seconds is not None]
    timed = timed or [goal for goal in problem.milestones if goal.seconds is not None]
    if not timed:
        return None
    hardest = min(timed, key=lambda one: one.error)
    return hardest.error, float(hardest.seconds)


def longest(store: Store, problem: Problem) -> Run | None:
    """The run that has had most time; of several seeds the one with the median last error."""
    runs = store.runs_of(problem.name, OURS)
    most = max((run.budget for run in runs), default=0.0)
    full = sorted((run for run in runs if run.budget == most), key=lambda run: run.curve[-1][3])
    return full[(len(full) - 1) // 2] if full else None


def draw(axes: Axes, problems: Sequence[Problem], store: Store) -> None:
    looks = itertools.product(LINES, plt.rcParams["axes.prop_cycle"].by_key()["color"])
    for problem in problems:
        published, run = anchor(problem), longest(store, problem)
        if published is None or run is None or len(run.curve) < 2:
            continue
        error, seconds = published
        style, color = next(looks)
        name = problem.name + (" *" if problem.differs else "")
        # A logarithmic axis has no zero: the start is left out.
        points = [(point[0] / seconds, point[3] / error) for point in run.curve[1:]]
        axes.loglog(*zip(*points, strict=True), style, color=color, label=name)
        axes.plot(*points[-1], "o", color=color, markersize=3)
    axes.axhline(1, color="0.3", linewidth=0.8)
    axes.axvline(1, color="0.3", linewidth=0.8)
    axes.set_xlabel("time / published time on a GPU")
    axes.set_ylabel("error / published error")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="* settings differ")


def save(folder: Path, problems: Sequence[Problem], store: Store) -> Path:
    """Write `relative.png` and return its path."""
    path = folder / "relative.png"
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.6))
        draw(axes, problems, store)
        figure.savefig(path, dpi=110)
        plt.close(figure)
    return path
