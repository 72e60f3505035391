"""What one evaluation of the loss says: terms, per-sample Jacobian and second derivative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autodiff.finite_difference import finite, finite_difference_hessian
from ..autodiff.products import (
    Derivatives,
    check_twice_differentiable,
    differentiable_gradient,
    hessian_from_gradient,
    nodes_of,
)
from ..autodiff.verification import Verdict, verify
from ..closure.capture import ClosureError
from ..closure.evaluator import Evaluator
from ..closure.joined_rows import joined
from ..closure.start import Start
from ..graph.guard import warn_unreadable
from ..graph.reading import Reading
from ..graph.residuals import Residuals, read_residuals
from ..linalg.operators import LinearOperator
from ..preconditioners import cost
from ..preconditioners.base import AnyPreconditioner, AtDamping
from ..preconditioners.function_space import FunctionSpace
from ..preconditioners.held_rows import obstacle
from ..preconditioners.linearized_loss import LinearizedLoss, without_rows
from ..preconditioners.linearized_loss import linearize as linearized_loss
from ..preconditioners.low_rank import LowRankSpace


@dataclass(frozen=True)
class Linearization:
    """A loss at one point, as far as its graph could be read.

    Attributes:
        start: the loss with its graph, and its gradient.
        evaluator: where it comes from.
        residuals: the terms of the loss; None where nobody asked.
        space: the function space, of all processes together, where the Jacobian could be read.
        at_damping: the preconditioner that the user gave, or that of low rank.
        low_rank: the rows, where the factor of a function space would cost more than it is worth.
        recognised: whether the terms are the whole loss, on every process.
        complete: whether there are the rows of all terms, and the columns of all parameters, on
            every process.
        twice: whether the graph can be differentiated twice.
        checked: whether a product that is not finite should be an error.
        missed: what was in the way, a phrase each, where no Jacobian could be read at all.
        too_large: what does not fit in memory, a phrase each with the bytes that would do.
    """

    start: Start
    evaluator: Evaluator
    residuals: Residuals | None
    space: FunctionSpace | None
    at_damping: AtDamping | None
    low_rank: LowRankSpace | None
    recognised: bool
    complete: bool
    twice: bool
    checked: bool
    missed: tuple[str, ...] = ()
    too_large: tuple[str, ...] = ()

    @property
    def unread(self) -> tuple[str, ...]:
        """What of the loss and of its Jacobian was not read, and what was in the way."""
        unrecognised = [] if self.residuals is None else self.residuals.unrecognised
        parts = tuple(f"the loss: {name}" for name in dict.fromkeys(unrecognised))
        reading = self.reading
        of_reading = reading.unread(self.evaluator.params) if reading else ()
        return parts + self.missed + of_reading + self.too_large

    def complaint(self) -> str | None:
        """What a user should know whose steps cannot be solved in function space, if so."""
        if self.space is not None or self.low_rank is not None or not self.unread:
            return None
        return f"steps cannot be solved in function space, because of {'; '.join(self.unread)}"

    @property
    def reading(self) -> Reading | None:
        """How the per-sample Jacobian was read; None where it was not."""
        read = self.space if self.space is not None else self.low_rank
        return None if read is None else read.reading

    def hessian(self) -> LinearOperator:
        """The exact Hessian of the function that the step minimises, P x P."""
        H = self._over_processes(self._own_hessian())
        return finite(H) if self.checked else H

    def gauss_newton(self) -> LinearOperator:
        """Its Gauss-Newton matrix, P x P: from the Jacobian in memory, or by autograd."""
        if self.complete and self.space is not None:
            return self.space.gauss_newton()
        if self.iterative is not None:
            return self.iterative.gauss_newton()
        return self._over_processes(self._own_gauss_newton())

    @property
    def iterative(self) -> LowRankSpace | None:
        """The rows, where they are those of the whole Gauss-Newton matrix."""
        return self.low_rank if self.recognised and self.complete else None

    def verdict(self) -> Verdict:
        """What a test of the exact Hessian against gradients says, the same on every process.

        Its evaluations of the closure are counted apart: no decision of a step should depend on
        whether a test was due.
        """
        ranks, evaluator = self.evaluator.ranks, self.evaluator
        with evaluator.testing():
            return verify(
                ranks.averaged(self._own_hessian()),
                lambda direction: ranks.mean(evaluator.gradient_at(direction)),
                evaluator.params,
            )

    def _over_processes(self, A: LinearOperator) -> LinearOperator:
        return self.start.surrogate.curvature(self.evaluator.ranks.averaged(A))

    def _own_hessian(self) -> LinearOperator:
        params = self.evaluator.params
        if not self.twice:
            return finite_difference_hessian(self.evaluator.gradient_at, params)
        derivatives: Derivatives = self.start.derivatives
        if not any(found is not None for found in derivatives):
            derivatives = differentiable_gradient(self.start.graph, params)
            check_twice_differentiable(nodes_of(self.start.graph), derivatives)
        return hessian_from_gradient(derivatives, params)

    def _own_gauss_newton(self) -> LinearOperator:
        if self.residuals is None:
            raise ClosureError("curvature='gauss_newton' needs the terms of the loss")
        return self.residuals.gauss_newton(self.evaluator.params)


def linearize(
    start: Start,
    evaluator: Evaluator,
    preconditioner: AnyPreconditioner | str | None,
    *,
    terms: bool,
    twice: bool,
    checked: bool,
    max_memory: int | None = None,
    proposed: Sequence[int] = (),
) -> Linearization:
    """Read the graph of the loss as far as a step needs it.

    Args:
        start: the loss and its gradient.
        evaluator: of the closure.
        preconditioner: ``"auto"`` asks for the per-sample Jacobian; None for nothing.
        terms: whether the terms of the loss are wanted in any case.
        twice: whether the graph can be differentiated twice.
        checked: whether a product that is not finite should be an error.
        max_memory: bytes of the matrices that a solve may form; None for `cost.MAX_MEMORY`.
        proposed: rows for a factor of low rank to choose from first.
    """
    params, ranks, loss = evaluator.params, evaluator.ranks, start.graph
    by_rows = preconditioner == "auto"
    residuals, rows, found, missed, too_large = None, None, None, list[str](), list[str]()
    if (by_rows or terms) and (twice or retained(loss, params)):
        residuals = read_residuals(loss)
    if by_rows and residuals is not None:
        reason = obstacle(residuals.of_outputs, params, max_memory)
        too_large += [] if reason is None else [reason]
        found = None if reason else _own_rows(residuals, start, evaluator, missed)
    at_damping = preconditioner(loss, params) if callable(preconditioner) else None
    if by_rows:
        rows = joined(ranks, found, params, max_memory, proposed)
    space = rows if isinstance(rows, FunctionSpace) else None
    low_rank = rows if isinstance(rows, LowRankSpace) else None
    if rows is None and found is not None:
        low_rank = LowRankSpace.of(found, max_memory, proposed)  # each rank of its own
    if low_rank is not None:
        too_large += cost.beyond_memory(low_rank.jacobian, low_rank.max_memory)
        low_rank = start.surrogate.low_rank(low_rank)
        at_damping = low_rank.operator
    recognised = residuals is not None and bool(residuals.terms) and not residuals.unrecognised
    complete = (
        found is not None
        and found.whole
        and residuals is not None
        and found.jacobian.rows == residuals.rows
    )
    if ranks.active:
        recognised, complete = ranks.everywhere(recognised, loss), ranks.everywhere(complete, loss)
        if rows is None:
            at_damping = ranks.preconditioner(at_damping, loss)
    at = Linearization(
        start=start,
        evaluator=evaluator,
        residuals=residuals,
        space=start.surrogate.space(space),
        at_damping=at_damping,
        low_rank=low_rank,
        recognised=recognised,
        complete=complete,
        twice=twice,
        checked=checked,
        missed=tuple(missed),
        too_large=tuple(too_large),
    )
    if by_rows and (terms or too_large):
        warn_unreadable(at.complaint())
    return at


def _own_rows(
    residuals: Residuals, start: Start, evaluator: Evaluator, missed: list[str]
) -> LinearizedLoss | None:
    """The rows of this process; those of no samples, where it is one of several and has none."""
    if evaluator.ranks.active and residuals.terms and residuals.rows == 0:
        return without_rows(evaluator.params)
    return linearized_loss(residuals, evaluator.params, start.own_gradient, missed)


def retained(loss: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether the graph can be used again, which that of a compiled model cannot."""
    try:
        torch.autograd.grad(loss, list(params), retain_graph=True, allow_unused=True)
    except RuntimeError:
        return False
    return True
