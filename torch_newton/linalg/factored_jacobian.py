r"""The rows of a Jacobian as products of short vectors.

A weight matrix W that is used as A W, with row i of A belonging to one sample, has

.. math:: \partial z_m / \partial W = \sum_{i \to m} A_i \otimes C_i,

where C is what a backward pass from z leaves at the output of that product. So no row of the
Jacobian J need be formed for its products, nor for :math:`J J^T`.

All rows come multiplied by the square root of Q, so that :math:`\hat J^T \hat J` is the
Gauss-Newton matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .factor import Factor
from .flat import flatten, unflatten
from .gram import gram, symmetric_product

SMALL = 100_000
"""Entries of a Jacobian up to which it is formed: a product then costs less than its calls."""

__all__ = ["Factor", "FactoredJacobian"]


@dataclass(frozen=True)
class FactoredJacobian:
    r"""A Jacobian J, R x P, held as factors, and as itself, too, where it is small.

    Attributes:
        factors: for each parameter, or None where no row depends on it.
        like: the parameters.
        rows: R.
    """

    factors: list[Factor | None]
    like: Sequence[Tensor]
    rows: int

    def matvec(self, v: Tensor) -> Tensor:
        """J v."""
        if self._matrix is not None:
            return self._matrix @ v
        result = v.new_zeros(self.rows)
        for factor, piece in zip(self.factors, unflatten(v, self.like), strict=True):
            if factor is not None:
                result += factor.matvec(piece)
        return result

    def rmatvec(self, u: Tensor) -> Tensor:
        """J^T u."""
        if self._matrix is not None:
            return u @ self._matrix
        return flatten(
            torch.zeros_like(param) if factor is None else factor.rmatvec(u)
            for factor, param in zip(self.factors, self.like, strict=True)
        )

    def gram(self) -> Tensor:
        """J J^T, R x R: the empirical neural tangent kernel of z."""
        if self._matrix is not None:
            return symmetric_product(self._matrix)
        factors = [factor for factor in self.factors if factor is not None]
        return gram(factors) if factors else self.like[0].new_zeros(self.rows, self.rows)

    def squared_norms(self) -> Tensor:
        """The diagonal of J J^T."""
        if self._matrix is not None:
            return self._matrix.square().sum(1)
        total = self.like[0].new_zeros(self.rows)
        for factor in self.factors:
            if factor is not None:
                total += factor.squared_norms()
        return total

    def take(self, index: Tensor, scale: Tensor) -> FactoredJacobian:
        """The rows of the given numbers, each times a number."""
        factors = [None if f is None else f.take(index, scale) for f in self.factors]
        return FactoredJacobian(factors, self.like, len(index))

    def times(self, number: float) -> FactoredJacobian:
        """The rows, all times a number."""
        lefts: dict[int, Tensor] = {}  # a weight and its bias share theirs
        factors: list[Factor | None] = []
        for f in self.factors:
            if f is not None:
                f = replace(f, left=lefts.setdefault(id(f.left), f.left * number))  # noqa: PLW2901
            factors.append(f)
        return FactoredJacobian(factors, self.like, self.rows)

    def dense(self) -> Tensor:
        """J, R x P."""
        return torch.cat(
            [
                param.new_zeros(self.rows, param.numel()) if factor is None else factor.dense()
                for factor, param in zip(self.factors, self.like, strict=True)
            ],
            dim=1,
        )

    @cached_property
    def _matrix(self) -> Tensor | None:
        """J, where it is small."""
        return self.dense() if self.rows * sum(p.numel() for p in self.like) <= SMALL else None
