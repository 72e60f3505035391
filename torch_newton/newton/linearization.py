"""What one evaluation of the loss tells: its gradient, its terms, and which arms it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autodiff.finite_difference import finite, finite_difference_hessian
from ..autodiff.products import (
    check_twice_differentiable,
    differentiable_gradient,
    hessian_from_gradient,
)
from ..closure.capture import ClosureError
from ..closure.evaluator import Evaluator
from ..graph.residuals import Residuals, read_residuals
from ..linalg.operators import LinearOperator
from ..preconditioners.base import AtDamping
from ..preconditioners.function_space import FunctionSpace, function_space, within_budget
from ..preconditioners.sampled_rows import SampledSpace, sampled_space
from ..preconditioners.scaling import Scaling
from ..step import Arm, Path
from .options import Options
from .quadratic_model import QuadraticModel


@dataclass(frozen=True)
class Linearization:
    """A loss at one point, as far as its graph could be read.

    Attributes:
        loss: with its graph.
        derivatives: its gradient, None for parameters that it does not depend on.
        trials: where it comes from.
        residuals: the terms of the loss; None where nobody asked.
        space: the function space, of all ranks together, where it could be read.
        at_damping: the preconditioner that the user gave, or that of a sample of the rows.
        sampled: the rows, where there are too many for a function space.
        recognised: whether the terms are the whole loss, on every rank.
        complete: whether the function space has the rows of all terms, on every rank.
        twice: whether the graph can be differentiated twice.
        checked: whether a product that is not finite shall be an error.
    """

    loss: Tensor
    derivatives: Sequence[Tensor | None]
    trials: Evaluator
    residuals: Residuals | None
    space: FunctionSpace | None
    at_damping: AtDamping | None
    sampled: SampledSpace | None
    recognised: bool
    complete: bool
    twice: bool
    checked: bool

    def arms(self, allowed: frozenset[Arm]) -> frozenset[Arm]:
        """Those of the arms that this loss can be solved with.

        Raises:
            ClosureError: there is none.
        """
        known = self.residuals
        # Without second derivatives Gauss-Newton has the rows alone.
        linearised = self.recognised and (self.twice or self.complete)
        possible = frozenset(
            arm
            for arm in allowed
            if (arm.exact or linearised) and (self.space is not None or not arm.scaled)
        )
        if possible:
            return possible
        if not self.recognised and not any(arm.exact for arm in allowed):
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
            A = self.trials.curvature(self._hessian())
            if self.checked:
                A = finite(A)
        elif self.complete and self.space is not None:
            A = self.space.gauss_newton()
            return QuadraticModel(gradient, A, None, self.space, True, scaling)
        else:
            A = self.trials.curvature(self._gauss_newton())
        return QuadraticModel(
            gradient, A, self.at_damping, self.space, scaling=scaling, path=self._path
        )

    @property
    def _path(self) -> Path | None:
        return None if self.sampled is None else Path.SAMPLED_ROWS

    def _hessian(self) -> LinearOperator:
        params = self.trials.params
        if not self.twice:
            return finite_difference_hessian(self.trials.gradient_at, params)
        derivatives = self.derivatives
        if not any(found is not None and found.requires_grad for found in derivatives):
            derivatives = differentiable_gradient(self.loss, params)
            check_twice_differentiable(derivatives)
        return hessian_from_gradient(derivatives, params)

    def _gauss_newton(self) -> LinearOperator:
        if self.residuals is None:
            raise ClosureError("curvature='gauss_newton' needs the terms of the loss")
        sampled = self.sampled
        if (
            sampled is not None
            and sampled.jacobian.rows == self.residuals.rows
            and sampled.shift is None
        ):
            return sampled.gauss_newton()
        return self.residuals.gauss_newton(self.trials.params)


def read(
    loss: Tensor,
    derivatives: Sequence[Tensor | None],
    trials: Evaluator,
    options: Options,
    twice: bool,
) -> Linearization:
    """Read the graph of `loss` as far as the options ask for it."""
    params, prepare = trials.params, options.preconditioner
    by_rows = prepare == "auto"
    residuals, space, sampled = None, None, None
    readable = twice or retained(loss, params)
    if readable and (by_rows or not all(arm.exact for arm in options.arms)):
        residuals = read_residuals(loss)
    if by_rows and residuals is not None:
        if within_budget(residuals, params):
            space = function_space(residuals, params, trials.own_gradient)
        else:
            sampled = sampled_space(residuals, params, trials.own_gradient)
    at_damping = prepare(loss, params) if callable(prepare) else None
    if sampled is not None:
        at_damping = sampled.at
    recognised = residuals is not None and bool(residuals.terms) and not residuals.unrecognised
    complete = (
        space is not None
        and space.shift is None  # no parameter is left out
        and residuals is not None
        and space.jacobian.rows == residuals.rows
    )
    if trials.ranks.active:
        everywhere = trials.ranks.everywhere
        recognised, complete = everywhere(recognised, loss), everywhere(complete, loss)
        if not everywhere(at_damping is not None, loss):
            at_damping = None
        at_damping = trials.ranks.preconditioner(at_damping)
    return Linearization(
        loss,
        derivatives,
        trials,
        residuals,
        trials.space(space),
        at_damping,
        sampled,
        recognised,
        complete,
        twice,
        twice and options.hvp == "auto",
    )


def retained(loss: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether the graph can be used again, which that of a compiled model cannot."""
    try:
        torch.autograd.grad(loss, list(params), retain_graph=True, allow_unused=True)
    except RuntimeError:
        return False
    return True
