"""The trace of the Hessian."""

from __future__ import annotations

import math

import torch

from torch_newton.linalg.operators import in_dtype
from torch_newton.linalg.precision import at_least_single
from torch_newton.linalg.trace_estimation import Trace, hutch_plus_plus

from ..bounded import BASIS_BYTES
from ..point import Point
from ..spectrum import TRACE_PRODUCTS, hessian_trace
from ..work import Unit, Work
from .base import Measured, Need, Numbers, Quantity

LEAST = 6
"""Products of which the error of an estimate is known: two in each third of them."""


class TraceNumbers(Quantity):
    """The sum of H's eigenvalues: exact where H is formed, by Hutch++ where it is not.

    Costs 30 products with H, and no fewer than 6 where time is limited, over as many pauses as
    these take, and the memory of as many vectors of P entries, up to 1 GiB.
    """

    name = "trace"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.HESSIAN})
    documentation: tuple[tuple[str, str], ...] = (
        ("hessian/trace", "sum of the eigenvalues of H"),
        ("hessian/trace_error", "its standard error, or its rounding where H is formed"),
    )

    def compute(self, point: Point) -> Measured:
        """The trace and its error."""
        return self._measured(hessian_trace(point.H, point.spectrum if point.formed else None))

    def work(self, point: Point) -> Work[Measured]:
        """From the eigenvalues where they are known, else by a product at a time."""
        allowance, H = point.allowance, point.H
        spectrum = vars(point).get("spectrum")
        if spectrum is not None and spectrum.eigenvalues is not None:
            return self._measured(hessian_trace(H, spectrum))
        if H.shape[0] <= LEAST:
            return (yield from super().work(point))
        product = allowance.estimate("product")
        affordable = min(TRACE_PRODUCTS, allowance.planned() / max(product, 1e-9), H.shape[0] - 1)
        third = max(LEAST, int(affordable)) // 3
        size = point.gradient.element_size() * H.shape[0]
        third = max(LEAST // 3, min(third, BASIS_BYTES // max(2 * size, 1)))
        H = in_dtype(H, at_least_single(H.dtype))
        allowance.reduced |= third < TRACE_PRODUCTS // 3
        estimation = hutch_plus_plus(H, third)
        try:
            block = next(estimation)
            while True:
                products = []
                for v in block.unbind(1):
                    yield Unit("product")
                    products.append(H @ v)
                block = estimation.send(torch.stack(products, dim=1))
        except StopIteration as end:
            found: Trace = end.value
        finite = math.isfinite(found.value)
        return self._measured((found.value, found.standard_error) if finite else None)

    def _measured(self, found: tuple[float, float] | None) -> Measured:
        if found is None:
            return Measured(self.unknown())
        return Measured({"hessian/trace": found[0], "hessian/trace_error": found[1]})

    def unknown(self) -> Numbers:
        """NaN, with an infinite error."""
        return {"hessian/trace": math.nan, "hessian/trace_error": math.inf}
