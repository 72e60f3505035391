r"""The damped inverse of a Gauss-Newton matrix and a weight decay,
:math:`(\hat J^T \hat J + W + \lambda I)^{-1}`, whose second diagonal is not a multiple of I.

In the variables :math:`\psi = E^{1/2} \theta` with :math:`E = W + \lambda I` it is
:math:`(\tilde J^T \tilde J + I)^{-1}` with :math:`\tilde J = \hat J E^{-1/2}`, and Woodbury's
formula holds as it stands. The rows of a weight matrix keep their form where E is constant over
the matrix or of rank one, as it is for one w to a parameter. With a scaling D it is neither: in its
variables W becomes :math:`W D^{-1}`, w times :math:`a_i b_j` over a matrix, and in place of
:math:`\lambda + w a_i b_j` stands the product

.. math:: \big(\sqrt\lambda + t \sqrt w\, a_i\big) \big(\sqrt\lambda + \sqrt w\, b_j / t\big),
          \qquad t^2 = \bar b / \bar a,

which is larger by :math:`\sqrt{\lambda w}\,(t a_i + b_j / t)`. The inverse then is a
preconditioner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.flat import spread
from ..linalg.operators import LinearOperator, congruent
from .damped_inverse import DampedInverse, cholesky
from .function_space import FunctionSpace
from .scaling import Part, Scaling, expanded, scaled_factor


@dataclass(frozen=True)
class Weights:
    """E^{-1/2}: a number, a diagonal or an outer product for each parameter.

    Attributes:
        roots: of each parameter.
        like: the parameters.
        dtype: that of the rows. In a lower precision the vector would be of another E than theirs,
            and what it leaves outside the range of J^T would be divided by E.
    """

    roots: Sequence[float | Part]
    like: Sequence[Tensor]
    dtype: torch.dtype

    @cached_property
    def vector(self) -> Tensor:
        """Its diagonal, P entries."""
        pieces = [
            spread([root], [param], self.dtype) if isinstance(root, float) else expanded(root)
            for root, param in zip(self.roots, self.like, strict=True)
        ]
        return torch.cat(pieces)

    def apply(self, jacobian: FactoredJacobian) -> FactoredJacobian:
        """J E^{-1/2}."""
        lefts: dict[tuple[int, float], Tensor] = {}
        factors: list[Factor | None] = []
        for factor, root in zip(jacobian.factors, self.roots, strict=True):
            if factor is None:
                factors.append(None)
            elif isinstance(root, float):
                # Shared by a weight and the bias beside it where these have one w.
                key = factor.layer, root
                if key not in lefts:
                    lefts[key] = factor.left * root
                factors.append(factor.with_left(lefts[key], jacobian.dtype))
            else:
                factors.append(scaled_factor(factor, root))
        return jacobian.with_factors(factors)


@dataclass(frozen=True)
class WeightedInverse:
    """The inverse for one lambda; it has the methods of a `DampedInverse`.

    Attributes:
        space: the Gauss-Newton matrix in the variables of the system.
        damping: lambda.
        inner: the inverse of the weighted rows plus I.
        root: E^{-1/2}, P entries.
    """

    space: FunctionSpace
    damping: float
    inner: DampedInverse
    root: Tensor

    def operator(self, dtype: torch.dtype | None = None) -> LinearOperator:
        """The inverse as an operator, P x P, for vectors of another precision if one is given."""
        M = self.inner.operator(dtype)
        return congruent(M, self.root.to(M.dtype))

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The step d for a gradient, and J d."""
        d, image = self.inner.step(self.root * gradient)
        return self.root * d, image

    def correction(self, remainder: Tensor) -> Tensor:
        """The step for a gradient J^T e, with R entries e."""
        return self.root * self.inner.correction(remainder)


def weighted_inverse(
    space: FunctionSpace, damping: float, weights: Sequence[float], scaling: Scaling | None
) -> tuple[DampedInverse | WeightedInverse, bool]:
    """The inverse of J^T J + W + lambda I, and whether it is that rather than one close to it.

    Args:
        space: J, in the variables of the scaling.
        damping: lambda; positive unless all weights are.
        weights: w of each parameter, in the variables without a scaling.
        scaling: D; None for I.
    """
    if scaling is None and len(set(weights)) == 1:
        return space.at(damping + weights[0]), True
    if not space.dual:
        W = spread(weights, space.jacobian.like, space.dtype)
        W = W if scaling is None else scaling.vector.square() * W
        gram = space.gram + torch.diag(W)
        if space.shift is not None:
            gram = gram + torch.diag(space.shift)
        return DampedInverse(space, damping, cholesky(gram, damping)), True
    parts = [None] * len(weights) if scaling is None else scaling.roots
    pairs = zip(parts, weights, strict=True)
    roots = [_root(part, w, damping, space.dtype) for part, w in pairs]
    variables = Weights(roots, space.jacobian.like, space.dtype)
    exact = all(part is None or len(part) == 1 for part in parts)
    inner = space.scaled(variables).at(1.0)
    return WeightedInverse(space, damping, inner, variables.vector), exact


def _root(part: Part | None, weight: float, damping: float, dtype: torch.dtype) -> float | Part:
    """(lambda + w D^{-1})^{-1/2} of one parameter, or of the product that stands for it."""
    if part is None:
        return 1 / math.sqrt(damping + weight)
    part = tuple(root.to(dtype) for root in part)
    if len(part) == 1:
        return ((damping + weight * part[0].square()).rsqrt(),)
    a, b = (root.square() for root in part)
    t = (b.mean() / a.mean()).sqrt()
    rows = math.sqrt(damping) + math.sqrt(weight) * t * a
    return rows.rsqrt(), (math.sqrt(damping) + math.sqrt(weight) * b / t).rsqrt()
