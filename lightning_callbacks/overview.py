"""A monitor's history as one figure: what `CurvatureMonitor.plot` draws. It needs Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .figures import LABELS, heat_map_axes, kernel_axes, styled
from .history import History

COLUMNS = 3
"""Panels beside each other."""

CURVES = 5
"""Steps of which a kernel's eigenvalues are drawn: as many as shades of grey can be told apart."""


class Series:
    """The columns of a history, those of one optimizer where there are several.

    Args:
        history: with a row for each measurement.
        prefix: of the keys, as ``"0/"``.
    """

    def __init__(self, history: History, prefix: str = "") -> None:
        self.history = history
        self.prefix = prefix
        self._known = set(history.columns)

    def of(self, key: str) -> tuple[list[float], list[float]]:
        """The steps at which a number is known and finite, and its values."""
        if self.prefix + key not in self._known:
            return [], []
        pairs = zip(self.history["step"], self.history[self.prefix + key], strict=True)
        known = [(step, value) for step, value in pairs if math.isfinite(value)]
        return [step for step, _ in known], [value for _, value in known]

    def together(self, *keys: str) -> list[list[float]]:
        """The steps at which all of the numbers are finite, and the values of each."""
        columns = [dict(zip(*self.of(key), strict=True)) for key in keys]
        steps = [step for step in columns[0] if all(step in column for column in columns[1:])]
        return [steps, *([column[step] for step in steps] for column in columns)]


Panel = Callable[[Figure, Any, Series], None]


@styled
def history_figure(history: History, prefix: str = "") -> Figure:
    """A panel for each thing that the history tells something of.

    The definiteness margin with its bounds; the eigenvalues of H over the training; sharpness and
    the limit that the learning rate sets; the eigenvalues of NTK and NNTK side by side; residuals.

    Args:
        history: of a monitor.
        prefix: of the keys of one optimizer, as ``"0/"``; empty where there is one.

    Raises:
        ValueError: nothing in it can be drawn.
    """
    series = Series(history, prefix)
    panels = [panel for has, panel in PANELS if has(series)]
    if not panels:
        raise ValueError(
            "there is nothing to draw: the monitor has measured none of "
            "hessian, ntk, nntk, sharpness, critical and residuals"
            + (f" under {prefix!r}" if prefix else "")
        )
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows), dpi=150)
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, panel in zip(axes, panels, strict=False):
        panel(figure, place, series)
    for unused in axes[len(panels) :]:
        unused.remove()
    return figure


def _margin(figure: Figure, axes: Any, series: Series) -> None:
    """The smallest eigenvalue of H between its bounds, with and without damping."""
    steps, low = series.of("hessian/lambda_min")
    line(axes, steps, low, "s--", "0.5", r"$\lambda_{\min}(H)$")
    at, lowest, value, error = series.together(
        "hessian/lambda_min_lowest", "hessian/lambda_min", "hessian/lambda_min_error"
    )
    highest = [v + e for v, e in zip(value, error, strict=True)]
    axes.fill_between(at, lowest, highest, color="0.85", linewidth=0, label="its bounds")
    damped = series.of("hessian/damped_lambda_min")
    line(axes, *damped, "o-", "0.0", r"$\lambda_{\min}(H + \lambda I)$")
    signed_logarithm(axes, [*low, *damped[1]])
    axes.axhspan(axes.get_ylim()[0], 0, color="0.96", linewidth=0, zorder=0)
    axes.text(0.98, 0.03, "not definite", transform=axes.transAxes, ha="right", color="0.4")
    label(axes, "definiteness margin", "smallest eigenvalue")


def _spectrum(figure: Figure, axes: Any, series: Series) -> None:
    """All eigenvalues of H over the training, or the extreme ones."""
    steps, kept = series.history.spectra(series.prefix + "hessian")
    if kept:
        heat_map_axes(figure, axes, steps, [k.values for k in kept], [k.weights for k in kept])
        axes.set_title("spectrum of H")
        return
    both: list[float] = []
    for key, style, shade in (("lambda_max", "o-", "0.0"), ("lambda_min", "s--", "0.5")):
        steps_of, values = series.of(f"hessian/{key}")
        line(axes, steps_of, values, style, shade, rf"$\{key.replace('_', '_{')}}}(H)$")
        both += values
    signed_logarithm(axes, both)
    label(axes, "ends of the spectrum of H", "eigenvalue")


def _sharpness(figure: Figure, axes: Any, series: Series) -> None:
    """Curvatures along directions, beside the largest and what the learning rate allows."""
    drawn = (
        ("hessian/lambda_max", "o-", "0.0", r"$\lambda_{\max}(H)$"),
        ("sharpness/gradient", "s-", "0.45", "along the gradient"),
        ("sharpness/step", "^-", "0.65", "along the last step"),
        ("critical/sharpness", "D-", "0.3", "critical sharpness"),
    )
    for key, style, shade, text in drawn:
        steps, values = series.of(key)
        positive = [value if value > 0 else math.nan for value in values]
        if any(value > 0 for value in positive):
            line(axes, steps, positive, style, shade, text)
    steps, limit = series.of("sharpness/limit")
    if steps:
        axes.plot(steps, limit, "--", color="0.0", linewidth=0.9, label="limit of SGD, 2/lr")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend above the curves
    label(axes, "sharpness", "curvature, where positive", loc="upper center", ncols=2)


def _kernel(name: str) -> Panel:
    def panel(figure: Figure, axes: Any, series: Series) -> None:
        steps, kept = series.history.spectra(series.prefix + name)
        if kept:
            count = min(CURVES, len(kept))
            chosen = [round(i * (len(kept) - 1) / max(1, count - 1)) for i in range(count)]
            values = [kept[i].values for i in chosen]
            kernel_axes(axes, [steps[i] for i in chosen], values, LABELS[name])
            axes.set_ylabel("eigenvalue" if name == "ntk" else "share removed by one step")
            legend(axes)
            return
        for end, style, shade in (("lambda_max", "o-", "0.0"), ("lambda_min", "s--", "0.5")):
            at, ends = series.of(f"{name}/{end}")
            positive = [value if value > 0 else math.nan for value in ends]
            line(axes, at, positive, style, shade, rf"$\{end.replace('_', '_{')}}}$")
        axes.set_yscale("log")
        label(axes, f"ends of the {LABELS[name]}", "eigenvalue, where positive")

    return panel


def _residuals(figure: Figure, axes: Any, series: Series) -> None:
    """The largest and the 99th-percentile residual."""
    line(axes, *series.of("residual/largest"), "o-", "0.0", "largest")
    line(axes, *series.of("residual/percentile_99"), "s--", "0.5", "99th percentile")
    axes.set_yscale("log")
    label(axes, "residuals", "absolute residual")


def _has(*keys: str) -> Callable[[Series], bool]:
    return lambda series: any(series.of(key)[0] for key in keys)


PANELS: Sequence[tuple[Callable[[Series], bool], Panel]] = (
    (_has("hessian/lambda_min"), _margin),
    (_has("sharpness/gradient", "sharpness/step", "critical/sharpness"), _sharpness),
    # In the last column its colour bar leaves no gap in the row below.
    (_has("hessian/lambda_max"), _spectrum),
    (_has("ntk/lambda_max"), _kernel("ntk")),
    (_has("nntk/lambda_max"), _kernel("nntk")),
    (_has("residual/largest"), _residuals),
)
"""What there must be to draw a panel, and the panel."""


def line(
    axes: Any, steps: Sequence[float], values: Sequence[float], style: str, shade: str, text: str
) -> None:
    """A curve with a marker at a dozen of its points."""
    every = max(1, len(steps) // 12)
    face = "none" if "--" in style else shade
    axes.plot(
        steps, values, style, color=shade, markevery=every, markerfacecolor=face, label=text
    )  # fmt: skip


def signed_logarithm(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic scale of both signs, linear below the smallest value or 1e-6 of the largest."""
    sizes = [abs(value) for value in values if value != 0]
    if sizes:
        largest, smallest = max(sizes), min(sizes)
        threshold = 10 ** math.floor(math.log10(max(smallest, 1e-6 * largest)))
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_ylim(-2 * largest if min(values) < 0 else -threshold, 3 * largest)


def label(axes: Any, title: str, height: str, **place: Any) -> None:
    """Title, axes' labels and a legend."""
    axes.set(title=title, xlabel="optimizer step", ylabel=height)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    legend(axes, **place)


def legend(axes: Any, **place: Any) -> None:
    """A legend on a white ground, so that curves behind it do not cross its words."""
    axes.legend(fontsize=7, frameon=True, framealpha=0.85, edgecolor="none", **place)
