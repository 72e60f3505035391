"""The table of all cases, printed at the end of a run."""

from __future__ import annotations

import pytest

from tests.trust.architectures.checks import ROWS, Row


class Table:
    """A plugin of pytest that prints one line for each case that was run."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not ROWS:
            return
        terminalreporter.section("architectures")
        width = max(len(name) for name in ROWS)
        wide = max(len(how(row)) for row in ROWS.values())
        head = f"{'P':>4} {'R':>4} {'path':{wide}} {'H error':>8} {'G error':>8}"
        terminalreporter.line(f"{'':{width}} {head} {'before':>10} {'after':>10}")
        for row in ROWS.values():
            terminalreporter.line(line(row, width, wide))


def how(row: Row) -> str:
    """The path, and how the per-sample Jacobian was read where the step says so."""
    return row.path if row.jacobian in {"-", "NONE"} else f"{row.path}, {row.jacobian}"


def line(row: Row, width: int, wide: int) -> str:
    """P and R, the path, the errors of both directions, and the loss before and after."""
    errors = [
        f"{row.errors[name]:8.0e}" if name in row.errors else f"{'-':>8}"
        for name in ("hessian", "gauss_newton")
    ]
    R = row.R or "-"
    text = f"{row.name:{width}} {row.P:4} {R:>4} {how(row):{wide}} {' '.join(errors)}"
    failed = f"  failed: {', '.join(sorted(row.failed))}" if row.failed else ""
    return f"{text} {row.before:10.2e} {row.after:10.2e}{failed}"
