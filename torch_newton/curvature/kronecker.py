"""The Gauss-Newton matrix as a Kronecker-factored block for each layer."""

from __future__ import annotations

from typing import ClassVar

from ..closure.capture import ClosureError
from ..graph.random_root import output_roots
from ..linalg.operators import LinearOperator
from ..preconditioners.kronecker import Kronecker as Preconditioner
from .base import Curvature
from .linearization import Linearization


class Kronecker(Curvature):
    """Kronecker factors, averaged over steps: for closures that see another batch at each.

    A step with it takes two to three gradients, and is that of `newton.stochastic`.
    """

    name: ClassVar[str] = "kronecker"
    averaged: ClassVar[bool] = True
    # A gradient, two or three forward evaluations and a backward pass.
    expected_cost: ClassVar[float] = 5.0

    def available(self, at: Linearization) -> bool:
        if not at.recognised or at.residuals is None:
            return False
        return output_roots(at.residuals.of_outputs) is not None

    def operator(self, at: Linearization) -> LinearOperator:
        """The matrix of this point alone."""
        found = Preconditioner().factored(at.start.graph, at.evaluator.params)
        if found is None:
            raise ClosureError(self.missing(at))
        return at.start.surrogate.curvature(at.evaluator.ranks.averaged(found.operator()))

    def missing(self, at: Linearization) -> str:
        unread = () if at.residuals is None else at.residuals.unrecognised
        found = ", ".join(unread) or "terms in which samples interact"
        return (
            "curvature='kronecker' needs a loss that is a sum of squares, a cross-entropy or "
            f"another convex function of each sample's outputs, but found {found} on the way back "
            "from the loss: use curvature='hessian'"
        )
