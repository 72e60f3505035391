"""Progress of a run of some seconds: a bar on a terminal, and a few lines where there is none."""

from __future__ import annotations

import argparse
import sys

from tqdm import tqdm

LINES = 4
"""Lines that a run without a terminal prints: enough to see that it lives, few enough for a log."""


def add_plain(parser: argparse.ArgumentParser) -> None:
    """The option ``--plain``, which is on by itself where the output is no terminal."""
    parser.add_argument(
        "--plain",
        action="store_true",
        default=not sys.stderr.isatty(),
        help="a line of progress now and then in place of a bar (so where there is no terminal)",
    )


class Progress:
    """Shows how much of a time is over, to be used in a with statement.

    Args:
        label: what runs.
        seconds: how long it may take.
        plain: lines in place of a bar.
    """

    def __init__(self, label: str, seconds: float, plain: bool) -> None:
        self.label, self.seconds, self.plain = label, seconds, plain
        self.shown = 0
        look = "{desc}{bar:30} {n:.0f}/{total:.0f} s{postfix}"
        self.bar = tqdm(total=seconds, desc=f"{label:26}", bar_format=look, disable=plain)

    def show(self, elapsed: float, text: str) -> None:
        """The seconds that are over, and how things stand."""
        self.bar.n = round(min(elapsed, self.seconds), 1)
        self.bar.set_postfix_str(text)
        quarter = int(LINES * elapsed / self.seconds)
        if self.plain and quarter > self.shown:
            self.shown = quarter
            print(f"{self.label:26} {elapsed:5.1f} of {self.seconds:g} s  {text}", flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
