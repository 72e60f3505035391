"""The trace of the Hessian."""

from __future__ import annotations

import math

from ..point import Point
from .base import Measured, Need, Numbers, Quantity


class TraceNumbers(Quantity):
    """The sum of H's eigenvalues: exact where H is formed, by Hutch++ where it is not."""

    name = "trace"
    needs = frozenset({Need.GRADIENT, Need.HESSIAN})
    documentation = (
        ("hessian/trace", "sum of the eigenvalues of H"),
        ("hessian/trace_error", "its standard error, or its rounding where H is formed"),
    )

    def compute(self, point: Point) -> Measured:
        """The trace and its error."""
        if point.trace is None:
            return Measured(self.unknown())
        value, error = point.trace
        return Measured({"hessian/trace": value, "hessian/trace_error": error})

    def unknown(self) -> Numbers:
        """NaN, with an infinite error."""
        return {"hessian/trace": math.nan, "hessian/trace_error": math.inf}
