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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..autodiff.nodes import leaf
from ..graph.fallback import jacobian_by_autograd
from ..graph.loss_curvature import OutputHessianRoot, output_hessian_root
from ..graph.per_sample import read_jacobian
from ..graph.residuals import Residuals, Term, find_residuals
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.flat import flatten
from ..linalg.gram import symmetric_product
from ..linalg.operators import LinearOperator, symmetric
from .scaling import Scaling

TargetAt = Callable[[Tensor], Tensor | None]
"""A loss with its graph -> its target, R entries."""

MAX_SIZE = 3000
"""The smaller of R and P up to which a Cholesky factor of that size is formed at each step."""

MAX_ENTRIES = 50_000_000
"""Entries of a Jacobian up to which it is formed where P is smaller than R."""


class FunctionSpace:
    """A Gauss-Newton matrix as its rows, and its damped inverse.

    Attributes:
        jacobian: the rows, R x P, with the square root of Q multiplied in.
        target: R entries, Q^{-1/2} times the slope of the loss in z.
        target_at: the same of the loss at another point, with the Q of this one; None where
            that is made of other terms.
        gradient: J^T target, the gradient of the terms that the rows are of where Q is positive.
        size: P.
        dual: whether `gram` is J J^T, R x R, rather than J^T J, P x P.
    """

    def __init__(
        self,
        jacobian: FactoredJacobian,
        target: Tensor,
        gradient: Tensor | None = None,
        target_at: TargetAt = lambda loss: None,
    ) -> None:
        self.jacobian = jacobian
        self.target = target
        self.target_at = target_at
        self.gradient = jacobian.rmatvec(target) if gradient is None else gradient
        self.size = sum(param.numel() for param in jacobian.like)
        self.dual = jacobian.rows <= self.size

    @cached_property
    def gram(self) -> Tensor:
        """The smaller of J J^T, R x R, and J^T J, P x P."""
        if self.dual:
            return self.jacobian.gram()
        return symmetric_product(self.jacobian.dense().T)

    def scaled(self, scaling: Scaling) -> FunctionSpace:
        r"""The same in the variables :math:`\varphi = D^{1/2} \theta`."""
        gradient = scaling.vector * self.gradient
        return FunctionSpace(scaling.apply(self.jacobian), self.target, gradient, self.target_at)

    def times(self, number: float) -> FunctionSpace:
        """The same of the loss times the square of a number."""

        def target_at(loss: Tensor) -> Tensor | None:
            found = self.target_at(loss)
            return None if found is None else found * number

        return FunctionSpace(
            self.jacobian.times(number), self.target * number, self.gradient * number**2, target_at
        )

    def rest(self, gradient: Tensor) -> Tensor | None:
        """What of a gradient is not J^T target; None where that is nothing but rounding."""
        if gradient is self.gradient:
            return None
        rest, norm = gradient - self.gradient, torch.linalg.vector_norm
        return None if float(norm(rest)) <= 1e-8 * float(norm(gradient)) else rest

    def gauss_newton(self) -> LinearOperator:
        """The Gauss-Newton matrix of the terms, P x P."""
        return self.jacobian.T @ self.jacobian

    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of `gram`."""
        eigenvalues = torch.linalg.eigvalsh(self.gram)
        return float(eigenvalues[0]), float(eigenvalues[-1])

    def at(self, damping: float) -> DampedInverse:
        """The inverse of the Gauss-Newton matrix plus `damping` times the identity."""
        return DampedInverse(self, damping, _cholesky(self.gram, damping))


@dataclass(frozen=True)
class DampedInverse:
    """The inverse of the Gauss-Newton matrix plus lambda I, for one lambda."""

    space: FunctionSpace
    damping: float
    factor: Tensor

    def operator(self) -> LinearOperator:
        """The inverse as an operator, P x P."""
        size = self.space.size
        return symmetric(size, self._product, dtype=self.factor.dtype, device=self.factor.device)

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        r"""The Gauss-Newton step :math:`d = -(\hat J^T \hat J + \lambda I)^{-1} g`, and J d.

        The part of g that is :math:`\hat J^T` times the target is inverted without a division
        by lambda, and so without the cancellation that a small lambda brings.
        """
        jacobian = self.space.jacobian
        if not self.space.dual:
            direction = -self._solve(gradient)
            return direction, jacobian.matvec(direction)
        solution = self._solve(-self.space.target)
        direction = jacobian.rmatvec(solution)
        rest = self.space.rest(gradient)
        if rest is None:
            return direction, self.space.gram @ solution
        direction = direction - self._product(rest)
        return direction, jacobian.matvec(direction)

    def correction(self, remainder: Tensor) -> Tensor:
        r"""The step :math:`-(\hat J^T \hat J + \lambda I)^{-1} \hat J^T e` for R entries e."""
        if self.space.dual:
            return -self.space.jacobian.rmatvec(self._solve(remainder))
        return -self._solve(self.space.jacobian.rmatvec(remainder))

    def _product(self, v: Tensor) -> Tensor:
        if not self.space.dual:
            return self._solve(v)
        jacobian = self.space.jacobian
        return (v - jacobian.rmatvec(self._solve(jacobian.matvec(v)))) / self.damping

    def _solve(self, u: Tensor) -> Tensor:
        return torch.cholesky_solve(u.unsqueeze(1), self.factor).squeeze(1)


def function_space(
    residuals: Residuals,
    params: Sequence[Tensor],
    gradient: Tensor | None = None,
) -> FunctionSpace | None:
    """The function space of a loss, of all its terms that can be read within the budget.

    A term that is a parameter itself, such as weight decay written into the loss, is left to
    the operator that is preconditioned.

    Args:
        residuals: the terms of the loss.
        params: the P parameters.
        gradient: that of the whole loss, P entries, where it is at hand: it spares a backward
            pass in checking what was read.
    """
    if not within_budget(residuals, params):
        return None
    found = read_rows(residuals, params, gradient)
    return None if found is None else FunctionSpace(*found)


def within_budget(residuals: Residuals, params: Sequence[Tensor]) -> bool:
    """Whether a system of as many rows, or as many parameters, can be factored at each step."""
    size = sum(param.numel() for param in params)
    rows = sum(term.like.numel() for term in _of_outputs(residuals))
    return min(rows, size) <= MAX_SIZE and (rows <= size or rows * size <= MAX_ENTRIES)


def _of_outputs(residuals: Residuals) -> list[Term]:
    return [term for term in residuals.terms if leaf(term.z.node) is None]


def read_rows(
    residuals: Residuals,
    params: Sequence[Tensor],
    gradient: Tensor | None = None,
) -> tuple[FactoredJacobian, Tensor, Tensor | None, TargetAt] | None:
    """What a `FunctionSpace` is made of, for any number of rows."""
    terms = _of_outputs(residuals)
    if not terms:
        return None
    roots: list[OutputHessianRoot] = []
    for term in terms:
        root = output_hessian_root(term)
        if root is None:
            return None
        roots.append(root)
    pieces = [root.solve(term.gradient) for term, root in zip(terms, roots, strict=True)]
    target = flatten(pieces)
    whole = len(terms) == len(residuals.terms) and not residuals.unrecognised
    if not (whole and _reach(pieces, terms, roots)):
        gradient = None  # of more than these rows
    known = None if gradient is None else (target, gradient)
    jacobian = read_jacobian(terms, params, roots, known)
    if jacobian is None:
        jacobian = jacobian_by_autograd(terms, params, roots)
    if jacobian is None:
        return None
    return jacobian, target, gradient, _Elsewhere([term.like.shape for term in terms], roots)


@dataclass(frozen=True)
class _Elsewhere:
    """Reads the target at other points, off the graph of the loss there."""

    shapes: list[torch.Size]
    roots: list[OutputHessianRoot]

    def __call__(self, loss: Tensor) -> Tensor | None:
        terms = _of_outputs(find_residuals(loss))
        if [term.like.shape for term in terms] != self.shapes:
            return None
        pairs = zip(self.roots, terms, strict=True)
        return flatten(root.solve(term.gradient) for root, term in pairs)


def _reach(
    pieces: Sequence[Tensor], terms: Sequence[Term], roots: Sequence[OutputHessianRoot]
) -> bool:
    """Whether Q^{1/2} times the pieces is the slope of the loss in z.

    It is not where a loss has slope but no second derivative, as Huber's has far out.
    """
    norm, tolerance = torch.linalg.vector_norm, torch.finfo(pieces[0].dtype).eps ** 0.75
    return all(
        bool(norm(root.apply(piece) - term.gradient) <= tolerance * norm(term.gradient))
        for piece, term, root in zip(pieces, terms, roots, strict=True)
        if term.curvature is None  # a square has slope only where it has curvature
    )


def _cholesky(gram: Tensor, damping: float) -> Tensor:
    """The factor of gram + damping I; more damping where rounding has made that indefinite."""
    shift = damping
    while True:
        shifted = gram.clone()
        shifted.diagonal().add_(shift)
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0 or not math.isfinite(shift):
            return factor
        limits = torch.finfo(gram.dtype)
        shift = max(10 * shift, limits.tiny, limits.eps * float(gram.diagonal().mean()))
