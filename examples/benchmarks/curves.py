"""Loss or error against time for selected problems, first seed."""

from __future__ import annotations

from pathlib import Path

from .problem import Problem
from .profile import style
from .store import Record


def draw(
    problems: list[Problem],
    table: dict[tuple[str, str], list[Record]],
    names: list[str],
    path: Path,
) -> None:
    """Small multiples; the dashed line is the headline target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(problems))
    lines = -(-len(problems) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.4 * columns, 3.3 * lines + 0.9), squeeze=False
    )
    handles = {}
    for axis, problem in zip(axes.flat, problems, strict=False):
        value = 2 if problem.measure == "loss" else 3
        for name in names:
            records = table.get((problem.name, name), [])
            points = [p for p in (records[0].get("curve", []) if records else []) if p[value]]
            if not points:
                continue
            handles[name] = axis.plot(
                [max(point[0], 1e-3) for point in points],
                [point[value] for point in points],
                markevery=0.15,
                **style(names.index(name), name),
            )[0]
        axis.axhline(problem.target, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
        axis.set(xscale="log", yscale="log", title=problem.name, xlabel="seconds")
        axis.set_ylabel("best loss" if value == 2 else "relative L2 error")
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(problems) :]:
        axis.axis("off")
    figure.legend(list(handles.values()), list(handles), loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.9 / figure.get_figheight() * 0.8, 1, 1))
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
