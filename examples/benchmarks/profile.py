"""Performance profiles: the share of problems that a contender solves within tau times the best.

rho_s(tau) = |{p : t_ps <= tau min_s' t_ps'}| / |P|; Dolan and More, Math. Program. 91 (2002),
201-213. A contender that does not reach the target has infinite time, and a problem that nobody
solves still counts in |P|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Times = Mapping[str, Sequence[float]]  # contender -> time on each instance, inf where unsolved


def ratios(times: Times) -> dict[str, list[float]]:
    """t_ps / min_s t_ps per instance; infinite where not solved."""
    count = len(next(iter(times.values())))
    best = [min(row[i] for row in times.values()) for i in range(count)]
    return {
        name: [t / b if math.isfinite(t) else math.inf for t, b in zip(row, best, strict=True)]
        for name, row in times.items()
    }


def share_within(row: Sequence[float], tau: float) -> float:
    """rho(tau) of one contender."""
    return sum(ratio <= tau for ratio in row) / len(row)


STYLES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2))]
MARKERS = "oDs^vPX*<>hd1"
COLORS = ["black", "dimgrey", *(f"C{i}" for i in range(10)), "teal"]


def style(index: int, name: str) -> dict[str, object]:
    """Told apart by line and marker, so that a grey print still reads."""
    ours = name.startswith("RegNewton")
    return {
        "linestyle": STYLES[index % len(STYLES)],
        "marker": MARKERS[index % len(MARKERS)],
        "color": COLORS[index % len(COLORS)],
        "markersize": 4.5,
        "linewidth": 2.4 if ours else 1.3,
        "zorder": 3 if ours else 2,
    }


def draw(panels: Mapping[str, Times], path: Path, names: Sequence[str]) -> None:
    """One panel per group of instances; ``names`` fixes every contender's style."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.2 * len(panels) + 2.2, 4.2), squeeze=False, sharey=True
    )
    handles = {}
    for axis, (title, times) in zip(axes[0], panels.items(), strict=True):
        table = ratios(times)
        finite = [r for row in table.values() for r in row if math.isfinite(r)]
        limit = max(10.0, 1.3 * max(finite, default=1.0))
        for name, row in table.items():
            at = [1.0, *sorted(r for r in row if math.isfinite(r)), limit]
            (handles[name],) = axis.step(
                at,
                [share_within(row, tau) for tau in at],
                where="post",
                label=name,
                markevery=max(1, len(at) // 8),
                **style(names.index(name), name),
            )
        count = len(next(iter(times.values())))
        axis.set(xscale="log", xlim=(1, limit), ylim=(-0.02, 1.02))
        axis.set_xlabel("time to target / best contender's time")
        axis.set_title(f"{title} ({count} instances)")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of instances solved")
    shown = [name for name in names if name in handles]
    figure.legend(
        [handles[name] for name in shown], shown, loc="center right", frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0, 0, 1 - 2.3 / figure.get_figwidth(), 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
