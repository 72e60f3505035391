"""A diagonal change of variables, or none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import LinearOperator, congruent


@dataclass(frozen=True)
class ChangeOfVariables:
    r"""The variables :math:`\varphi` with :math:`\theta = E \varphi`, E = diag(e).

    Attributes:
        e: P entries; None for the identity, which then costs nothing.
    """

    e: Tensor | None = None

    def gradient(self, g: Tensor) -> Tensor:
        """The derivative in phi, E g, of a function whose derivative in theta is g."""
        return g if self.e is None else self.e * g

    def curvature(self, A: LinearOperator) -> LinearOperator:
        """The second derivative in phi, E A E, of a function whose second derivative is A."""
        return A if self.e is None else congruent(A, self.e)

    def stretching(self, A: LinearOperator, g: Tensor) -> float:
        """|E A E g| / |g|, for a second derivative A in theta and a gradient g in phi."""
        norm_g, v = torch.linalg.vector_norm(g), self.to_theta(g)
        del g  # nobody else may need it: then there are two vectors beside the product, not three
        product = A.matvec(v)
        del v
        return float(torch.linalg.vector_norm(self.gradient(product)) / norm_g)

    def to_theta(self, d: Tensor) -> Tensor:
        """A move of phi as one of theta, E d."""
        return d if self.e is None else self.e * d

    def from_theta(self, d: Tensor) -> Tensor:
        """A move of theta as one of phi, E^{-1} d."""
        return d if self.e is None else d / self.e
