"""Error against time: a picture for each problem, and one of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .problem import Problem
from .report import OURS, runs_of
from .store import Store

LOOKS = {
    OURS: {"color": "black", "linewidth": 1.4},
    "L-BFGS": {"color": "tab:blue"},
    "Adam + L-BFGS": {"color": "tab:cyan"},
    "SOAP": {"color": "tab:orange"},
    "natural gradient (JAX)": {"color": "tab:red"},
    "SSBroyden (JAX)": {"color": "tab:green"},
    "SSBroyden (Scimba)": {"color": "tab:olive"},
    "Levenberg-Marquardt (nlls-gram)": {"color": "tab:purple"},
}
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
}
DPI = 90


def draw(
    axes: Axes, problem: Problem, store: Store, contenders: Sequence[str], seeds: Sequence[int]
) -> None:
    """Each seed's lowest error so far; the published one as a line, and a cross at its time."""
    for name in contenders:
        for run in runs_of(store, problem, name, seeds):
            # A logarithmic axis has no zero; the start is drawn at the first step's time.
            points = [(point[0], point[3]) for point in run.curve[1:]]
            label = name if run.seed == min(seeds) else None
            axes.loglog(*zip(*points, strict=True), label=label, **LOOKS.get(name, {}))
    for best in problem.published[:1]:
        axes.axhline(best.error, color="0.5", linestyle=":")
        if best.seconds is not None:
            axes.plot(best.seconds, best.error, "x", color="0.3", markersize=5)
    axes.set_title(f"{problem.name}, R = {problem.rows:,}, P = {problem.parameters:,}", fontsize=7)


def save(
    folder: Path,
    problems: Sequence[Problem],
    store: Store,
    contenders: Sequence[str],
    seeds: Sequence[int],
) -> Path:
    """Write the pictures and return the path of that of all."""
    shown = [p for p in problems if any(runs_of(store, p, name, seeds) for name in contenders)]
    with mpl.rc_context(STYLE):
        for problem in shown:
            figure, axes = plt.subplots(figsize=(4, 3))
            draw(axes, problem, store, contenders, seeds)
            axes.set(xlabel="seconds", ylabel=problem.measure)
            axes.legend()
            figure.savefig(folder / f"{problem.name}.png", dpi=DPI)
            plt.close(figure)
        columns = min(4, max(1, len(shown)))
        rows = -(-max(1, len(shown)) // columns)
        figure, grid = plt.subplots(
            rows, columns, figsize=(2.4 * columns, 1.8 * rows), squeeze=False
        )
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for problem, axes in zip(shown, grid.flat, strict=False):
            draw(axes, problem, store, contenders, seeds)
        figure.supxlabel("seconds; dotted: best published error, cross: its time on a GPU")
        figure.supylabel("error")
        path = folder / "all.png"
        figure.savefig(path, dpi=DPI)
        plt.close(figure)
    return path
