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
from .finite_difference import finite, finite_difference_hessian
from .function_space import FunctionSpace, function_space, within_budget
from .model import QuadraticModel
from .options import Options
from .preconditioners import AtDamping
from .residuals import Residuals, find_residuals
from .sampled_rows import SampledSpace, sampled_space
from .scaling import Scaling
from .step import Arm, Path
from .trials import Trials


@dataclass(frozen=True)
class Reading:
    """A loss at one point, as far as its graph could be read.

    Attributes:
        loss: with its graph.
        params: the parameters.
        derivatives: the gradient, None for parameters that the loss does not depend on.
        residuals: the terms of the loss; None where nobody asked.
        space: the function space of the loss, where it could be read.
        at_damping: the preconditioner that the user gave, or that of a sample of the rows.
        trials: the closure, which knows by what the loss's curvature must be multiplied, and over
            which processes averaged.
        exact: whether the graph can be differentiated twice; differences of gradients if not.
        check: whether a product that is not finite shall raise.
        complete: whether the rows in `space` are those of the whole loss.
        sampled: the rows, where there are too many for a function space.
    """

    loss: Tensor
    params: Sequence[Tensor]
    derivatives: Sequence[Tensor | None]
    residuals: Residuals | None
    space: FunctionSpace | None
    at_damping: AtDamping | None
    trials: Trials
    exact: bool = True
    check: bool = False
    complete: bool = False
    sampled: SampledSpace | None = None

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
            if self.exact:
                curvature = hessian_from_gradient(self._differentiable(), self.params)
            else:
                curvature = finite_difference_hessian(self.trials.gradient_at, self.params)
            curvature = self.trials.curvature(curvature)
            if self.check:
                curvature = finite(curvature)
            return QuadraticModel(
                gradient, curvature, self.at_damping, self.space, scaling=scaling, path=self._path
            )
        if self.residuals is None:
            raise ClosureError("curvature='gauss_newton' needs the terms of the loss")
        if self.space is not None and self.complete:
            return QuadraticModel(
                gradient, self.space.gauss_newton(), None, self.space, True, scaling
            )
        if self.sampled is not None and self.sampled.tangents.rows == self.residuals.rows:
            curvature = self.sampled.gauss_newton()
        else:
            curvature = self.residuals.gauss_newton(self.params)
        return QuadraticModel(
            gradient,
            self.trials.curvature(curvature),
            self.at_damping,
            self.space,
            scaling=scaling,
            path=self._path,
        )

    @property
    def _path(self) -> Path | None:
        return None if self.sampled is None else Path.SAMPLED_ROWS

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
    trials: Trials,
    exact: bool,
) -> Reading:
    """Read the graph of `loss` as far as the options ask for it, and as far as it can be."""
    prepare, ranks = options.preconditioner, trials.ranks
    readable = exact or _reusable(loss, params)
    by_rows = prepare == "auto" and readable
    residuals, space, sampled, complete = None, None, None, False
    if readable and (by_rows or not all(arm.exact for arm in options.arms())):
        residuals = find_residuals(loss)
    if by_rows and residuals is not None:
        few = within_budget(residuals, params)
        if ranks.agree(float(not few), params[0]) == 0:
            mine = function_space(residuals, params, derivatives)
            whole = mine is not None and mine.tangents.rows == residuals.rows
            complete = ranks.agree(float(not whole), params[0]) == 0
            space = trials.space(mine)
        elif not ranks.active:
            sampled = sampled_space(residuals, params, derivatives)
    at_damping = prepare(loss, params) if callable(prepare) else None
    if sampled is not None:
        at_damping = sampled.at
    return Reading(
        loss,
        params,
        derivatives,
        residuals,
        space,
        ranks.preconditioner(at_damping),
        trials,
        exact,
        exact and options.hvp == "auto",
        complete,
        sampled,
    )


def _reusable(loss: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether the graph can be used again, which that of a compiled model cannot."""
    try:
        torch.autograd.grad(loss, list(params), retain_graph=True, allow_unused=True)
    except RuntimeError:
        return False
    return True
