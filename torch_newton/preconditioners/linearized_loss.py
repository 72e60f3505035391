r"""A loss to first order in its outputs: its per-sample Jacobian, and what that should match.

With :math:`\hat J = Q^{1/2} J` and the target :math:`t = Q^{-1/2} \nabla_z L` the Gauss-Newton
model of the loss is :math:`|\hat J d + t|^2 / 2` but for a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..graph.guard import attempt, warn_unreadable
from ..graph.ladder import read_jacobian
from ..graph.loss_curvature import OutputHessianRoot, bounding_root, output_hessian_root
from ..graph.reading import Reading, Request, Rung
from ..graph.residuals import Residuals, Term, read_residuals
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.flat import flatten
from .left_out import shift_of

TargetAt = Callable[[Tensor], Tensor | None]
"""A loss with its graph -> its target, R entries."""


@dataclass(frozen=True)
class LinearizedLoss:
    r"""What a function space is made of.

    Attributes:
        jacobian: :math:`\hat J`, R x P, with zero columns for parameters that could not be read.
        target: t, R entries.
        gradient: :math:`\hat J^T t` of all parameters, where it is known beforehand.
        target_at: the target of the loss at another point, with the Q of this one; None where
            the loss is made of other terms there, and where parameters are left out.
        shift: see `left_out.shift_of`.
        reading: how the Jacobian was read; without the rows, which are in `jacobian`.
        exact: whether Q is the loss's own, rather than a matrix above it.
    """

    jacobian: FactoredJacobian
    target: Tensor
    gradient: Tensor | None
    target_at: TargetAt
    shift: Tensor | None
    reading: Reading
    exact: bool

    @property
    def whole(self) -> bool:
        """Whether its rows are those of all parameters, and of the loss's own Q."""
        return self.shift is None and self.exact

    def to(self, dtype: torch.dtype) -> LinearizedLoss:
        r"""The same in another precision, the gradient :math:`\hat J^T t` summed up in that."""
        if dtype is self.jacobian.dtype:
            return self
        jacobian, target = self.jacobian.to(dtype), self.target.to(dtype)
        return LinearizedLoss(
            jacobian,
            target,
            None if self.gradient is None else jacobian.rmatvec(target),
            _In(dtype, self.target_at),
            None if self.shift is None else self.shift.to(dtype),
            self.reading,
            self.exact,
        )


@dataclass(frozen=True)
class _In:
    """Gives targets in another precision than that of the loss."""

    dtype: torch.dtype
    target_at: TargetAt

    def __call__(self, loss: Tensor) -> Tensor | None:
        found = self.target_at(loss)
        return None if found is None else found.to(self.dtype)


def without_rows(params: Sequence[Tensor]) -> LinearizedLoss:
    """That of a loss over no samples, for a process that has none where others have some."""
    nothing, like = params[0].new_empty(0), params[0]
    return LinearizedLoss(
        FactoredJacobian([None for _ in params], params, 0),
        nothing,
        like.new_zeros(sum(param.numel() for param in params)),
        lambda loss: nothing,
        None,
        Reading(None, (Rung.BLOCKS,) * len(params), {}),
        exact=True,
    )


def linearize(
    residuals: Residuals,
    params: Sequence[Tensor],
    gradient: Tensor | None,
    missed: list[str] | None = None,
) -> LinearizedLoss | None:
    """Read a loss of any number of rows; None where no term or no parameter can be read.

    What could not be read is a warning, unless nothing could be: it is then left to the caller.

    Args:
        residuals: the terms of the loss.
        params: the P parameters.
        gradient: that of the whole loss, P entries, where it is at hand.
        missed: where nothing can be read, what was in the way is added to it, a phrase each.
    """
    missed = [] if missed is None else missed
    found, failure = attempt(lambda: _linearize(residuals, params, gradient, missed))
    if found is None:
        message = f"reading the loss off its graph failed ({failure})"
        warn_unreadable(None if failure is None else message)
        return None
    reading, linearized = found
    warn_unreadable(reading.complaint(params))
    if linearized is None:
        missed += reading.unread(params)
    return linearized


def _linearize(
    residuals: Residuals, params: Sequence[Tensor], gradient: Tensor | None, missed: list[str]
) -> tuple[Reading, LinearizedLoss | None] | None:
    terms = residuals.of_outputs
    found = [output_hessian_root(term) for term in terms]
    exact = None not in found
    pairs = zip(terms, found, strict=True)
    found = [bounding_root(term) if root is None else root for term, root in pairs]
    roots = [root for root in found if root is not None]
    if not terms or len(roots) < len(terms):
        pairs = zip(terms, found, strict=True)
        names = [term.value.node.name() for term, root in pairs if root is None]
        missed += [f"the loss: {name}, in which samples interact" for name in names]
        return None
    pieces = [root.solve(term.gradient) for term, root in zip(terms, roots, strict=True)]
    target = flatten(pieces)
    rows = sum(term.like.numel() for term in terms)
    whole = rows == residuals.rows and residuals.has_whole_slope
    if not (whole and _reach(pieces, terms, roots)):
        gradient = None  # of more than these rows
    request = Request(terms, params, roots, None if gradient is None else (target, gradient))
    reading = read_jacobian(request)
    if reading.jacobian is None:
        return reading, None
    shift = shift_of(request, reading.left_out)
    target_at: TargetAt = _Elsewhere(terms, roots)
    if shift is not None:
        gradient = None  # of more than these columns
    if shift is not None or not exact:
        # Where outputs also move with the parameters that are left out, or Q is another, a target
        # elsewhere says nothing of second order.
        target_at = _nowhere
    # Not the rows a second time, which are of another precision where they are solved with.
    how = replace(reading, jacobian=None)
    return reading, LinearizedLoss(reading.jacobian, target, gradient, target_at, shift, how, exact)


def _nowhere(loss: Tensor) -> None:
    """No target at any other point."""


@dataclass(frozen=True)
class _Elsewhere:
    """Reads the target at other points, off the graph of the loss there."""

    terms: Sequence[Term]
    roots: list[OutputHessianRoot]

    def __call__(self, loss: Tensor) -> Tensor | None:
        terms = read_residuals(loss).of_outputs
        if [term.like.shape for term in terms] != [term.like.shape for term in self.terms]:
            return None
        slopes = [new.slope_with_weight_of(old) for new, old in zip(terms, self.terms, strict=True)]
        known = [slope for slope in slopes if slope is not None]
        if len(known) < len(slopes):
            return None
        return flatten(root.solve(g) for root, g in zip(self.roots, known, strict=True))


def _reach(
    pieces: Sequence[Tensor], terms: Sequence[Term], roots: Sequence[OutputHessianRoot]
) -> bool:
    r"""Whether :math:`Q^{1/2}` times the pieces is the slope of the loss in z, but for rounding.

    It is not where a loss has slope but no second derivative, as Huber's has far out. Two
    products with a square root round by some epsilon of one output; :math:`\varepsilon^{0.75}`
    is 54 of them in single and 8,000 in double precision.
    """
    norm, tolerance = torch.linalg.vector_norm, torch.finfo(pieces[0].dtype).eps ** 0.75
    return all(
        bool(norm(root.apply(piece) - term.gradient) <= tolerance * norm(term.gradient))
        for piece, term, root in zip(pieces, terms, roots, strict=True)
        if term.curvature is None  # a square has slope only where it has curvature
    )
