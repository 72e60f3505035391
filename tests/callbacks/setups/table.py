"""The table of all set-ups, printed at the end of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest


@dataclass
class Row:
    """What became of a set-up.

    Attributes:
        kind: the file in which it stands.
        measured: how much of a measurement with full effort is a number.
        warned: how many warnings the monitor gave there.
        same: whether training was the same with every monitor; None while it is being tried.
        raised: whether the monitor ended it with an exception of its own.
    """

    kind: str
    measured: str = "-"
    warned: int = 0
    same: bool | None = None
    raised: bool = False


ROWS: dict[str, Row] = {}
"""By the names of the set-ups, as far as they were run."""


class Table:
    """A plugin of pytest that prints a line for each set-up, and counts."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not ROWS:
            return
        terminalreporter.section("training set-ups under the monitor")
        wide, high = max(map(len, ROWS)), max(len(row.kind) for row in ROWS.values())
        for name, row in ROWS.items():
            same = "identical" if row.same else "DIFFERENT"
            warned = f"{row.warned} warned of" if row.warned else ""
            line = f"{name:{wide}}  {row.kind:{high}}  {same:9}  {row.measured:8} {warned}"
            terminalreporter.line(line.rstrip())
        terminalreporter.line("")
        for line in counts():
            terminalreporter.line(line)


def counts() -> list[str]:
    """One line for each kind of set-up, and one for all."""
    head = f"{'kind':14}{'set-ups':>9}{'exceptions':>12}{'identical':>11}{'measured':>10}"
    lines = [f"{head}{'in part':>9}{'not':>5}"]
    kinds = dict.fromkeys(row.kind for row in ROWS.values())
    for kind in (*kinds, "all"):
        rows = [row for row in ROWS.values() if kind in {row.kind, "all"}]
        measured = Counter(row.measured for row in rows)
        lines.append(
            f"{kind:14}{len(rows):9}{sum(row.raised for row in rows):12}"
            f"{sum(bool(row.same) for row in rows):11}{measured['all']:10}"
            f"{measured['in part']:9}{measured['nothing']:5}"
        )
    return lines
