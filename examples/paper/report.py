"""Claims with their measured and expected numbers, and the look of the figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "pictures"


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Attributes:
        text: what is claimed, and for what.
        measured: the number measured, as printed.
        expected: the number expected, as printed.
        holds: whether the two agree as the text says; None where the run cannot tell.
    """

    text: str
    measured: str
    expected: str
    holds: bool | None

    def row(self) -> str:
        verdict = {True: "yes", False: "**no**", None: "not tested"}[self.holds]
        return f"| {self.text} | {self.measured} | {self.expected} | {verdict} |"


@dataclass(frozen=True)
class Result:
    """What a script found.

    Attributes:
        claims: lines of the table.
        figure: its picture.
    """

    claims: list[Claim]
    figure: Figure


def near(text: str, measured: float, expected: float, tolerance: float) -> Claim:
    """A number and what it should be, within an absolute tolerance."""
    return Claim(
        text,
        f"{measured:.3g}",
        f"{expected:.3g} ± {tolerance:.2g}",
        abs(measured - expected) <= tolerance,
    )


def run(name: str, title: str, script: Callable[[], Result]) -> str:
    """Measure, print the table, save the picture and return the section of the page."""
    torch.set_default_dtype(torch.float64)
    mpl.rcParams.update(STYLE)
    start = time.perf_counter()
    result = script()
    seconds = time.perf_counter() - start
    width = max(len(claim.text) for claim in result.claims)
    print(f"({name[0]}) {title}, {seconds:.0f} s")
    for claim in result.claims:
        verdict = {True: "holds", False: "DOES NOT HOLD", None: "not tested"}[claim.holds]
        print(f"  {claim.text:{width}}  {claim.measured}  expected {claim.expected}  {verdict}")
    PICTURES.mkdir(exist_ok=True)
    result.figure.savefig(PICTURES / f"{name}.png", dpi=110)
    plt.close(result.figure)
    return section(name, title, result.claims)


def section(name: str, title: str, claims: list[Claim]) -> str:
    """The part of the page that shows a script's claims and its picture."""
    rows = "\n".join(claim.row() for claim in claims)
    return (
        f"### ({name[0]}) {title}\n\n"
        f"| claim | measured | expected | holds |\n| --- | --- | --- | --- |\n{rows}\n\n"
        f"![{title}](pictures/{name}.png)\n"
    )


STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
}
LOOKS = (
    {"color": "black", "linestyle": "-", "marker": "o"},
    {"color": "0.45", "linestyle": "-", "marker": "s"},
    {"color": "black", "linestyle": "--", "marker": "^"},
    {"color": "0.45", "linestyle": "--", "marker": "D"},
    {"color": "0.65", "linestyle": "-", "marker": "v"},
    {"color": "0.65", "linestyle": "-.", "marker": "x"},
)
"""Lines that differ without colour."""
REFERENCE = {"color": "0.5", "linestyle": ":", "linewidth": 1.0}
"""The line of a power law or a limit."""
