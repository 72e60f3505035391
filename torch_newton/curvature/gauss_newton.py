"""The generalized Gauss-Newton matrix."""

from __future__ import annotations

from typing import ClassVar

from ..linalg.operators import LinearOperator
from ..preconditioners.low_rank import LowRankSpace
from .base import Curvature
from .linearization import Linearization


class GaussNewton(Curvature):
    r"""The Gauss-Newton matrix :math:`J^T Q J` of a loss that is convex in its outputs.

    Q is the second derivative of the loss in the outputs z, and J that of z in the parameters
    (Schraudolph 2002, *Fast curvature matrix-vector products for second-order gradient descent*).
    """

    name: ClassVar[str] = "gauss_newton"

    def available(self, at: Linearization) -> bool:
        # Products through autograd take J v as the derivative of a backward pass.
        return at.recognised and (at.twice or at.complete)

    def operator(self, at: Linearization) -> LinearOperator:
        return at.gauss_newton()

    def closed(self, at: Linearization) -> bool:
        return at.complete and at.space is not None

    def iterative(self, at: Linearization) -> LowRankSpace | None:
        return at.iterative

    def product_cost(self, at: Linearization) -> float:
        # From rows in memory a product takes as long as an evaluation: 70 ms, and 71 for Burgers'
        # equation at 10,456 points.
        return super().product_cost(at) if at.iterative is None else 1.0

    def missing(self, at: Linearization) -> str:
        if at.recognised:
            return (
                "curvature='gauss_newton' needs the per-sample Jacobian where the graph cannot be "
                "differentiated twice, and it could not be read: use curvature='hessian'"
            )
        found = (
            "nothing of the kind" if at.residuals is None else ", ".join(at.residuals.unrecognised)
        )
        return (
            "curvature='gauss_newton' needs a loss that is a sum of squares, a "
            f"cross-entropy or another convex function of the outputs, but found {found} on the "
            "way back from the loss: use curvature='hessian'"
        )
