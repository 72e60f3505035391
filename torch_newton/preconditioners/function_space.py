r"""The Gauss-Newton matrix plus lambda I, inverted in the space of residuals.

With :math:`\hat J = Q^{1/2} J`, R x P,

.. math:: (\hat J^T \hat J + \lambda I)^{-1} v
          = (v - \hat J^T (\hat J \hat J^T + \lambda I)^{-1} \hat J v) / \lambda,

so an R x R Cholesky factor does what a P x P one would (Woodbury 1950); where P is the smaller,
the P x P one is used. It is the exact Gauss-Newton step, and a preconditioner of the exact
Hessian under which H + lambda I becomes I plus a small matrix wherever residuals are small or
the network is wide, whatever the conditioning of its tangent kernel.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..graph.reading import Reading
from ..graph.residuals import Residuals
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.normal_equations import normal_matrix
from ..linalg.operators import LinearOperator
from ..linalg.precision import solving_dtype
from . import cost
from .damped_inverse import DampedInverse
from .linearized_loss import LinearizedLoss, TargetAt, linearize
from .scaling import Variables

__all__ = [
    "DampedInverse",
    "FunctionSpace",
    "function_space",
    "within_budget",
]

NOTHING = 1e-8
"""A gradient counts as J^T target up to this share of it, the square root of double precision's
epsilon: rounding stays below, and what a loss has besides, such as weight decay, does not."""


class FunctionSpace:
    """A Gauss-Newton matrix as its per-sample Jacobian, and its damped inverse.

    Attributes:
        jacobian: R x P, with the square root of Q multiplied in.
        target: R entries, Q^{-1/2} times the slope of the loss in z.
        target_at: the same of the loss at another point, with the Q of this one; None where
            that is made of other terms.
        gradient: J^T target, the gradient of the terms that the rows are of where Q is positive.
        sums_up: whether that is the gradient of the whole loss, but for rounding.
        shift: P entries, which the damped inverse adds to the diagonal of J^T J: an estimate of
            the trace of their block for parameters that J leaves out, zero for others; None
            where J leaves none out.
        reading: how the Jacobian was read; None for one that was not read off a graph.
        exact: whether Q is the loss's own, rather than a matrix above it.
        size: P.
        dual: whether `gram` is J J^T, R x R, rather than J^T J, P x P.
    """

    def __init__(
        self,
        jacobian: FactoredJacobian,
        target: Tensor,
        gradient: Tensor | Callable[[], Tensor] | None = None,
        target_at: TargetAt = lambda loss: None,
        shift: Tensor | None = None,
        reading: Reading | None = None,
        exact: bool = True,
        sums_up: bool | None = None,
    ) -> None:
        self.jacobian = jacobian
        self.target = target
        self.target_at = target_at
        self._gradient = jacobian.rmatvec(target) if gradient is None else gradient
        self._held: Callable[[], Tensor | None] = lambda: None
        self.sums_up: bool = gradient is not None if sums_up is None else sums_up
        self.shift = shift
        self.reading = reading
        self.exact = exact
        self.size: int = sum(param.numel() for param in jacobian.like)
        self.dual: bool = jacobian.rows <= self.size

    @classmethod
    def of(cls, found: LinearizedLoss) -> FunctionSpace:
        """That of a loss as it was read, in the precision in which its system is solved."""
        jacobian = found.jacobian
        found = found.to(solving_dtype(jacobian.dtype, jacobian.device))
        return cls(
            found.jacobian,
            found.target,
            found.gradient,
            found.target_at,
            found.shift,
            found.reading,
            found.exact,
        )

    @property
    def gradient(self) -> Tensor:
        """J^T target. Where it is computed it is kept for as long as somebody refers to it."""
        if isinstance(self._gradient, Tensor):
            return self._gradient
        found = self._held()
        if found is None:
            found = self._gradient()
            self._held = weakref.ref(found)
        return found

    @property
    def dtype(self) -> torch.dtype:
        """That of the rows, and of the system."""
        return self.jacobian.dtype

    @property
    def rounded(self) -> bool:
        """Whether the rows were computed in a lower precision than that of the system."""
        return self.jacobian.like[0].dtype is not self.dtype

    @property
    def whole(self) -> bool:
        """Whether its matrix is that of all parameters, and of the loss's own Q."""
        return self.shift is None and self.exact

    @cached_property
    def gram(self) -> Tensor:
        """The smaller of J J^T, R x R, and J^T J, P x P."""
        if self.dual:
            return self.jacobian.gram()
        (total,) = self.jacobian.over_all_rows([normal_matrix(self.jacobian.at_hand)])
        return total

    def scaled(self, scaling: Variables) -> FunctionSpace:
        r"""The same in the variables :math:`\varphi = D^{1/2} \theta`."""
        e = scaling.vector
        return FunctionSpace(
            scaling.apply(self.jacobian),
            self.target,
            lambda: e * self.gradient,
            self.target_at,
            None if self.shift is None else e.square() * self.shift,
            self.reading,
            self.exact,
            self.sums_up,
        )

    def adopt(self, earlier: FunctionSpace, ratio: Tensor) -> None:
        r"""Take :math:`E \hat J^T \hat J E` from the same rows in other variables, if they have it.

        That takes P^2 operations in place of P^2 R. The matrix of all processes' rows, and
        :math:`J J^T`, are formed anew.

        Args:
            earlier: the same in other variables.
            ratio: the diagonal of E, P entries.
        """
        if type(self) is FunctionSpace and not self.dual and "gram" in vars(earlier):
            self.gram = earlier.gram * torch.outer(ratio, ratio)

    def times(self, number: float) -> FunctionSpace:
        """The same of the loss times the square of a number."""

        def target_at(loss: Tensor) -> Tensor | None:
            found = self.target_at(loss)
            return None if found is None else found * number

        return FunctionSpace(
            self.jacobian.times(number),
            self.target * number,
            lambda: self.gradient * number**2,
            target_at,
            None if self.shift is None else self.shift * number**2,
            self.reading,
            self.exact,
            self.sums_up,
        )

    def rest(self, gradient: Tensor) -> Tensor | None:
        """What of a gradient is not J^T target; None where that is nothing but rounding."""
        if gradient is self.gradient:
            return None
        rest, norm = gradient - self.gradient, torch.linalg.vector_norm
        return None if float(norm(rest)) <= NOTHING * float(norm(gradient)) else rest

    def gauss_newton(self) -> LinearOperator:
        """The Gauss-Newton matrix of the terms, P x P; without the parameters that are left out."""
        return self.jacobian.normal()

    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of `gram`, of the parameters that were read."""
        eigenvalues = torch.linalg.eigvalsh(self.gram)
        return float(eigenvalues[0]), float(eigenvalues[-1])

    def at(self, damping: float) -> DampedInverse:
        """The inverse of the Gauss-Newton matrix plus `damping` times the identity."""
        return DampedInverse.of(self, damping)


def function_space(
    residuals: Residuals,
    params: Sequence[Tensor],
    gradient: Tensor | None = None,
    missed: list[str] | None = None,
    max_memory: int | None = None,
) -> FunctionSpace | None:
    """The function space of a loss, of all its terms that can be read; None beyond the budget.

    A term that is a parameter itself, such as weight decay written into the loss, is left to
    the operator that is preconditioned.

    Args:
        residuals: the terms of the loss.
        params: the P parameters.
        gradient: that of the whole loss, P entries, where it is at hand: it spares a backward
            pass in checking what was read.
        missed: see `linearized_loss.linearize`.
        max_memory: bytes of the matrices that a solve may form; None for `cost.MAX_MEMORY`.
    """
    if not may_fit(residuals, params, max_memory):
        return None
    found = linearize(residuals, params, gradient, missed)
    if found is None or not within_budget(found.jacobian, max_memory):
        return None
    return FunctionSpace.of(found)


def within_budget(jacobian: FactoredJacobian, max_memory: int | None = None) -> bool:
    """Whether the exact factor is worth what it costs (`cost.worth_a_factor`).

    Args:
        jacobian: J as it was read.
        max_memory: bytes; None for `cost.MAX_MEMORY`.
    """
    rows, size = jacobian.shape
    entry = cost.entry_operations(jacobian.factors, rows)
    itemsize = solving_dtype(jacobian.dtype, jacobian.device).itemsize
    return cost.worth_a_factor(rows, size, itemsize, entry=entry, max_memory=max_memory)


def may_fit(residuals: Residuals, params: Sequence[Tensor], max_memory: int | None = None) -> bool:
    """Whether a factor has the memory that it needs, as far as is known before J is read."""
    size = sum(param.numel() for param in params)
    rows = sum(term.like.numel() for term in residuals.of_outputs)
    itemsize = solving_dtype(params[0].dtype, params[0].device).itemsize
    return cost.fits(rows, size, itemsize, max_memory)
