"""Figures of spectra: labelled, and readable in greyscale. They need Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
}
"""Sizes for a panel of 3.4 inches, the width of a column in print."""

SHADES = 0.75
"""Grey of the earliest step; the last is black. Lighter greys are faint on white paper."""

MARKERS = 12
"""About as many on each curve: enough to tell curves apart in greyscale, without covering them."""

DECADES = 8
"""Eigenvalues below 1e-8 of the largest are drawn as zero where the user names no other bound:
the square root of double precision's rounding, and a tenth of single precision's."""

BINS_PER_DECADE = 4
"""Bins are a factor of 1.8 wide, which is about 70 for both signs of `DECADES`."""

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """`draw` in this module's style, whatever Matplotlib is set to."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


LABELS = {
    "hessian": "Hessian H",
    "ntk": r"NTK, $J J^\top$",
    "nntk": r"NNTK, $\kappa/(\kappa+\lambda)$",
    "nntk_hessian": "NNTK, exact Hessian",
}


@styled
def eigenvalue_figure(spectra: Mapping[str, Tensor]) -> Figure:
    """The eigenvalues of each spectrum by rank, largest absolute value first.

    Args:
        spectra: eigenvalues by the name of the matrix; the keys of `LABELS` are spelled out.
    """
    figure, panels = _figure(len(spectra))
    for axes, (name, values) in zip(panels, spectra.items(), strict=True):
        eigenvalue_axes(axes, values, LABELS.get(name, name))
    panels[0].set_ylabel("absolute value of eigenvalue")
    return figure


def eigenvalue_axes(axes: Any, values: Tensor, title: str) -> None:
    """One panel of `eigenvalue_figure`."""
    values = values.detach().cpu()
    order = values.abs().argsort(descending=True)
    ranks = torch.arange(1, len(values) + 1)
    values = values[order]
    for chosen, marker, face, label in (
        (values > 0, "o", "0.0", "positive"),
        (values < 0, "s", "none", "negative"),
    ):
        if bool(chosen.any()):
            axes.plot(
                ranks[chosen],
                values[chosen].abs(),
                marker,
                color="0.0" if face != "none" else "0.45",
                markerfacecolor=face,
                label=label,
            )
    if bool((values != 0).any()):
        axes.set_yscale("log")
    if bool((values < 0).any()):
        axes.legend()
    axes.set(xlabel="rank of eigenvalue", title=title)


@styled
def kernel_figure(steps: Sequence[int], ntk: Sequence[Tensor], nntk: Sequence[Tensor]) -> Figure:
    """NTK beside NNTK: all eigenvalues, at several steps of the training.

    Args:
        steps: optimizer steps at which they were measured.
        ntk: eigenvalues at each.
        nntk: the same of the Newton neural tangent kernel.
    """
    figure, panels = _figure(2)
    for axes, name, spectra in zip(panels, ("ntk", "nntk"), (ntk, nntk), strict=True):
        kernel_axes(axes, steps, spectra, LABELS[name])
    panels[0].set_ylabel("eigenvalue")
    panels[1].set_ylabel("share of a mode removed by one step")
    panels[0].legend()
    return figure


def kernel_axes(axes: Any, steps: Sequence[int], spectra: Sequence[Tensor], title: str) -> None:
    """One panel of `kernel_figure`: positive eigenvalues by rank, a curve for each step."""
    for i, (step, values) in enumerate(zip(steps, spectra, strict=True)):
        shade = str(SHADES * (1 - i / max(1, len(steps) - 1)))
        positive = values[values > 0].sort(descending=True).values
        axes.plot(
            range(1, len(positive) + 1),
            positive,
            marker="os^Dv"[i % 5],
            markevery=max(1, len(positive) // MARKERS),
            color=shade,
            label=f"step {step}",
        )
    axes.set(yscale="log", xlabel="rank of eigenvalue", title=title)


@styled
def margin_figure(
    steps: Sequence[int], lambda_min: Sequence[float], damping: Sequence[float]
) -> Figure:
    """The definiteness margin, the smallest eigenvalue of H + damping I, over the training.

    Args:
        steps: optimizer steps.
        lambda_min: smallest eigenvalue of H at each.
        damping: lambda at each.
    """
    figure, (axes,) = _figure(1)
    low = torch.as_tensor(lambda_min, dtype=torch.float64)
    shifted = low + torch.as_tensor(damping, dtype=torch.float64)
    sizes = torch.cat([low.abs(), shifted.abs()])
    # Linear only below the decade of the smallest value: all others are seen in logarithm.
    threshold = 10 ** math.floor(math.log10(float(sizes[sizes > 0].min())))
    top = 2 * float(sizes.max())
    axes.axhspan(-top, 0, color="0.93", linewidth=0)
    axes.plot(steps, shifted, "o-", color="0.0", label=r"$\lambda_{\min}$ of damped $H$")
    axes.plot(steps, low, "s--", color="0.5", label=r"$\lambda_{\min}(H)$")
    axes.set_yscale("symlog", linthresh=threshold)
    axes.set_ylim(-top, top)
    axes.set(xlabel="optimizer step", ylabel="smallest eigenvalue")
    axes.text(0.98, 0.03, "not definite", transform=axes.transAxes, ha="right", color="0.4")
    axes.legend(loc="upper right")
    return figure


@styled
def heat_map_figure(
    steps: Sequence[int], spectra: Sequence[Tensor], *, smallest: float | None = None
) -> Figure:
    """All eigenvalues over the training: how many fall in each bin of signed logarithm.

    Args:
        steps: optimizer steps.
        spectra: the eigenvalues at each.
        smallest: absolute values below are drawn as zero; about 1e-8 of the largest where None
            (see `DECADES`).
    """
    figure, (axes,) = _figure(1)
    heat_map_axes(figure, axes, steps, spectra, smallest=smallest)
    return figure


def heat_map_axes(
    figure: Figure,
    axes: Any,
    steps: Sequence[int],
    spectra: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    smallest: float | None = None,
) -> None:
    """The panel of `heat_map_figure`, with its colour bar.

    Args:
        figure: that gets the colour bar.
        axes: of the panel.
        steps: optimizer steps.
        spectra: the eigenvalues at each.
        weights: for how many each of them stands; for one where None.
        smallest: as in `heat_map_figure`.
    """
    largest = max(float(values.abs().max()) for values in spectra) or 1.0
    if smallest is None:
        smallest = 10.0 ** round(math.log10(10.0**-DECADES * largest))
    decades = math.log10(largest / smallest)
    bins = 2 * math.ceil(BINS_PER_DECADE * decades) + 1  # and one for zero
    top = bins / 2 / BINS_PER_DECADE

    def height(values: Tensor) -> Tensor:
        size = torch.log10((values.abs() / smallest).clamp(min=1.0))
        return size * values.sign()

    if weights is None:
        weights = [torch.ones_like(values, dtype=torch.float64) for values in spectra]
    rows = torch.linspace(-top, top, bins + 1, dtype=torch.float64)
    counts = torch.stack(
        [
            torch.histogram(height(values.double()), rows, weight=weight).hist
            for values, weight in zip(spectra, weights, strict=True)
        ],
        dim=1,
    )
    centres = torch.as_tensor(steps, dtype=torch.float64)
    middle = (centres[1:] + centres[:-1]) / 2
    # The first and the last are as wide as their only neighbour leaves them, or one step.
    ends = [centres[:1], centres[-1:]] if len(steps) > 1 else [centres - 0.5, centres + 0.5]
    edges = torch.cat([ends[0], middle, ends[1]])
    # Empty bins are white, and so half an eigenvalue on a logarithmic scale of grey.
    image = axes.pcolormesh(
        edges, rows, counts.clamp(min=0.5), cmap="Greys", norm=LogNorm(0.5, float(counts.max()))
    )
    # A label at every second decade, which is as many as the height of a panel can hold.
    ticks = [k for k in range(-math.floor(decades), math.floor(decades) + 1) if k % 2 == 0]
    exponent = math.log10(smallest)
    axes.set_yticks(ticks, [_power(k, exponent) for k in ticks])
    axes.axhline(0, color="0.3", linewidth=0.6, linestyle=":")
    bound = f"$|\\lambda| < 10^{{{round(exponent)}}}$ at 0"
    axes.set(xlabel="optimizer step", ylabel=f"eigenvalue of H ({bound})")
    figure.colorbar(image, ax=axes, label="eigenvalues per quarter decade")


def _power(k: int, exponent: float) -> str:
    if k == 0:
        return "0"
    sign = "-" if k < 0 else ""
    return f"${sign}10^{{{round(abs(k) + exponent)}}}$"


def _figure(panels: int) -> tuple[Figure, Sequence[Any]]:
    figure = Figure(figsize=(3.4 * panels + (1.4 if panels == 1 else 0), 3.2), dpi=150)
    figure.set_layout_engine("constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])
