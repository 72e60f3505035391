"""The table of quantities by name, and the documentation that it makes."""

from __future__ import annotations

from collections.abc import Iterable

from .base import Quantity
from .exact_newton_kernel import ExactNewtonTangentKernel
from .hessian import HessianNumbers
from .kernels import NewtonTangentKernel, TangentKernel
from .newton import NewtonNumbers
from .trace import TraceNumbers

QUANTITIES: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        HessianNumbers(),
        TraceNumbers(),
        TangentKernel(),
        NewtonTangentKernel(),
        ExactNewtonTangentKernel(),
        NewtonNumbers(),
    )
}
"""Every quantity by the name under which CurvatureMonitor is asked for it. Add your own."""


def documentation_table(quantities: Iterable[Quantity]) -> str:
    """The keys of some quantities and their meanings, as a table in reStructuredText."""
    rows = [
        (f"``{key}``", meaning)
        for quantity in quantities
        for key, meaning in quantity.documentation
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    rule = "  ".join("=" * width for width in widths)
    lines = [f"{key.ljust(widths[0])}  {meaning}" for key, meaning in rows]
    return "\n".join([rule, *lines, rule])
