"""A loss as a sum of convex terms, each a function of its own outputs z of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..autodiff.nodes import leaf
from ..autodiff.products import jacobian_at
from ..linalg.flat import flatten, unflatten
from ..linalg.operators import LinearOperator, symmetric
from .bounds import Centred
from .output_hessian import OutputHessian


@dataclass(frozen=True)
class Term:
    r"""A part :math:`w \cdot c(z)` of the loss, with c convex entry by entry of its output.

    Or, where no such c is known by its name, the part that depends on z through any nodes, with
    what stands for its second derivative.

    Attributes:
        value: where c(z) is in the graph.
        weight: w, the derivative of the loss with respect to c(z).
        z: where z is in the graph.
        gradient: the derivative of the term in its z.
        curvature: its second derivative in each entry of z, where that has been read off the
            graph; of z's shape or broadcast to it.
        others: further values that belong to the term, with their weights: it is the sum of all.
        hessian: the second derivative where its structure is known, or what takes its place:
            its positive part, or an upper bound.
        formula: the second derivative in closed form, where that keeps digits which autograd's
            products lose.
        chained: whether w changes with z, as where the loss is the root of a mean of squares.
    """

    value: GradientEdge
    weight: Tensor
    z: GradientEdge
    gradient: Tensor
    curvature: Tensor | None = None
    others: tuple[tuple[GradientEdge, Tensor], ...] = ()
    hessian: OutputHessian | Centred | None = None
    formula: Callable[[], OutputHessian | None] | None = None
    chained: bool = False

    @property
    def size(self) -> float:
        """The largest weight: rounding in the second derivative is some epsilon of it."""
        weights = [self.weight, *(weight for _, weight in self.others)]
        return max(float(weight.abs().amax()) for weight in weights)

    @property
    def diagonal(self) -> Tensor | None:
        """Q where it is known to be diagonal: of z's shape, or broadcast to it.

        Of one that takes the mean away beforehand the factor: a slope has no mean.
        """
        if self.hessian is None:
            return self.curvature
        if isinstance(self.hessian, Centred):
            return self.hessian.factor
        matrix = self.hessian.matrix
        return matrix.reshape(self.like.shape) if matrix.ndim == 2 else None

    @property
    def like(self) -> Tensor:
        """A tensor of z's shape, dtype and device."""
        return self.gradient

    def slope_with_weight_of(self, other: Term) -> Tensor | None:
        r"""The gradient in z with the weights that the same term has at another point.

        A target elsewhere says by how much z departs from its linearization, and not how the
        weights have changed since: of a diagonal Q it is :math:`q_0 g / q`, the slope of the
        square of curvature :math:`q_0`. None where that cannot be said.
        """
        if not (self.chained or other.chained):
            return self.gradient
        q, q0 = self.diagonal, other.diagonal
        if q is None or q0 is None:
            return None
        return torch.where(q > 0, q0 * self.gradient / q, torch.zeros_like(self.gradient))

    def slope(self) -> Tensor:
        """The derivative of this term in its z, with a graph; shaped like z."""
        edges = [self.value, *(edge for edge, _ in self.others)]
        weights = [self.weight, *(weight for _, weight in self.others)]
        (slope,) = torch.autograd.grad(edges, [self.z], weights, create_graph=True)
        return slope

    def hessian_product(self) -> Callable[[Tensor], Tensor]:
        """U -> Q u for this term, u shaped like z."""
        if self.hessian is not None:
            return self.hessian.matvec
        slope = self.slope()

        def product(u: Tensor) -> Tensor:
            if not slope.requires_grad:  # the term is linear in z
                return torch.zeros_like(u)
            (result,) = torch.autograd.grad(
                slope, [self.z], u, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return result.detach()

        return product


@dataclass(frozen=True)
class Residuals:
    """The outputs z of a loss.

    Attributes:
        terms: the convex terms that the loss is a sum of.
        unrecognised: names of the nodes at which the walk gave up; empty where the terms are
            the whole loss, but for what is linear in the outputs.
        clipped: names of nodes of which the second derivative in z was not positive semidefinite,
            so that its positive part, or that of single outputs, took its place.
        linear: names of the nodes at which parts of the loss begin that are linear in the
            network's outputs; they have a slope and no second derivative.
    """

    terms: list[Term]
    unrecognised: list[str]
    clipped: list[str] = field(default_factory=list)
    linear: list[str] = field(default_factory=list)

    @property
    def has_whole_slope(self) -> bool:
        """Whether the slope of the loss is that of the terms."""
        return not self.unrecognised and not self.linear

    @property
    def rows(self) -> int:
        """R, the number of entries of z over all terms."""
        return sum(term.like.numel() for term in self.terms)

    @property
    def of_outputs(self) -> list[Term]:
        """The terms whose z is computed, unlike that of a weight decay, which is a parameter.

        Without those that have no entries, as the sum of squares over an empty batch.
        """
        return [term for term in self.terms if leaf(term.z.node) is None and term.like.numel()]

    def jacobian(self, params: Sequence[Tensor]) -> LinearOperator:
        """J, R x P: the derivative of z in the parameters."""
        return jacobian_at(
            [term.z for term in self.terms], [term.like for term in self.terms], params
        )

    def hessian(self) -> LinearOperator:
        """Q, R x R, block-diagonal over the terms.

        Raises:
            ValueError: no term of the loss was recognised.
        """
        if not self.terms:
            raise ValueError(
                "no term of the loss was recognised as a convex function of outputs: the walk "
                f"back from the loss ended at {', '.join(self.unrecognised)}"
            )
        products = [term.hessian_product() for term in self.terms]
        like = [term.like for term in self.terms]

        def product(u: Tensor) -> Tensor:
            pieces = unflatten(u, like)
            return flatten(f(piece) for f, piece in zip(products, pieces, strict=True))

        return symmetric(self.rows, product, dtype=like[0].dtype, device=like[0].device)

    def gauss_newton(self, params: Sequence[Tensor]) -> LinearOperator:
        """G = J^T Q J, P x P.

        Raises:
            ValueError: no term of the loss was recognised.
        """
        Q, J = self.hessian(), self.jacobian(params)
        return J.T @ Q @ J
