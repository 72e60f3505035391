"""A loss as a sum of convex terms, each a function of its own outputs z of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..autodiff.nodes import leaf
from ..autodiff.products import jacobian_at
from ..linalg.flat import flatten, unflatten
from ..linalg.operators import LinearOperator, symmetric


@dataclass(frozen=True)
class Term:
    r"""A part :math:`w \cdot c(z)` of the loss, with c convex entry by entry of its output.

    Attributes:
        value: where c(z) is in the graph.
        weight: w, the derivative of the loss with respect to c(z).
        z: where z is in the graph.
        gradient: the derivative of the term in its z.
        curvature: its second derivative in each entry of z, where that has been read off the
            graph; of z's shape or broadcast to it.
    """

    value: GradientEdge
    weight: Tensor
    z: GradientEdge
    gradient: Tensor
    curvature: Tensor | None = None

    @property
    def like(self) -> Tensor:
        """A tensor of z's shape, dtype and device."""
        return self.gradient

    def slope(self) -> Tensor:
        """The derivative of this term in its z, with a graph; shaped like z."""
        (slope,) = torch.autograd.grad([self.value], [self.z], [self.weight], create_graph=True)
        return slope

    def hessian_product(self) -> Callable[[Tensor], Tensor]:
        """U -> Q u for this term, u shaped like z."""
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
            the whole loss.
    """

    terms: list[Term]
    unrecognised: list[str]

    @property
    def rows(self) -> int:
        """R, the number of entries of z over all terms."""
        return sum(term.like.numel() for term in self.terms)

    @property
    def of_outputs(self) -> list[Term]:
        """The terms whose z is computed, unlike that of a weight decay, which is a parameter."""
        return [term for term in self.terms if leaf(term.z.node) is None]

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
