"""What one evaluation of the loss tells: its gradient, its terms, and which arms it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .closure import ClosureError
from .curvature import (
    check_twice_differentiable,
    differentiable_gradient,
    hessian_from_gradient,
)
from .function_space import FunctionSpace, function_space
from .model import QuadraticModel
from .options import Options
from .preconditioners import AtDamping
from .residuals import Residuals, find_residuals
from .scaling import Scaling
from .step import Arm


@dataclass(frozen=True)
class Reading:
    """A loss at one point, as far as its graph could be read.

    Attributes:
        loss: with its graph.
        params: the parameters.
        derivatives: the gradient, None for parameters that the loss does not depend on.
        residuals: the terms of the loss; None where nobody asked.
        space: the function space of the loss, where it could be read.
        at_damping: the preconditioner that the user gave.
    """

    loss: Tensor
    params: Sequence[Tensor]
    derivatives: Sequence[Tensor | None]
    residuals: Residuals | None
    space: FunctionSpace | None
    at_damping: AtDamping | None

    def arms(self, allowed: frozenset[Arm]) -> frozenset[Arm]:
        """Those of the arms that this loss can be solved with.

        Raises:
            ClosureError: there is none.
        """
        known = self.residuals
        recognised = known is not None and bool(known.terms) and not known.unrecognised
        possible = frozenset(
            arm
            for arm in allowed
            if (arm.exact or recognised) and (self.space is not None or not arm.scaled)
        )
        if possible:
            return possible
        if not recognised and not any(arm.exact for arm in allowed):
            met = "nothing of the kind" if known is None else ", ".join(known.unrecognised)
            raise ClosureError(
                "curvature='gauss_newton' needs a loss that is a sum of squares, a "
                f"cross-entropy or another convex function of the outputs, but met {met} on the "
                "way back from the loss: use curvature='hessian'"
            )
        raise ClosureError(
            "scaling='jacobian' needs a loss whose rows can be read, and fewer of them or of the "
            "parameters than this one has: use scaling='auto' or None"
        )

    def model(self, arm: Arm, gradient: Tensor, scaling: Scaling | None) -> QuadraticModel:
        """The quadratic model that an arm minimises, with `gradient` as its slope."""
        if arm.exact:
            curvature = hessian_from_gradient(self._differentiable(), self.params)
            return QuadraticModel(gradient, curvature, self.at_damping, self.space, scaling=scaling)
        if self.residuals is None:
            raise ClosureError("curvature='gauss_newton' needs the terms of the loss")
        if self.space is not None and self.space.tangents.rows == self.residuals.rows:
            return QuadraticModel(
                gradient, self.space.gauss_newton(), None, self.space, True, scaling
            )
        curvature = self.residuals.gauss_newton(self.params)
        return QuadraticModel(gradient, curvature, self.at_damping, self.space, scaling=scaling)

    def _differentiable(self) -> Sequence[Tensor | None]:
        if any(found is not None and found.requires_grad for found in self.derivatives):
            return self.derivatives
        derivatives = differentiable_gradient(self.loss, self.params)
        check_twice_differentiable(derivatives)
        return derivatives


def read(
    loss: Tensor,
    params: Sequence[Tensor],
    derivatives: Sequence[Tensor | None],
    options: Options,
) -> Reading:
    """Read the graph of `loss` as far as the options ask for it."""
    prepare = options.preconditioner
    by_rows = prepare == "auto"
    residuals, space = None, None
    if by_rows or not all(arm.exact for arm in options.arms()):
        residuals = find_residuals(loss)
    if by_rows and residuals is not None:
        space = function_space(residuals, params, derivatives)
    at_damping = prepare(loss, params) if callable(prepare) else None
    return Reading(loss, params, derivatives, residuals, space, at_damping)


def plain_gradient(loss: Tensor, params: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient without a graph, which Gauss-Newton does not need."""
    return torch.autograd.grad(loss, list(params), retain_graph=True, allow_unused=True)
