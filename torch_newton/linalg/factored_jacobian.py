r"""A Jacobian whose rows are held as products of short vectors.

A weight matrix W that is used as A W, with row i of A belonging to one sample, has

.. math:: \partial z_m / \partial W = \sum_{i \to m} A_i \otimes C_i,

where C is what a backward pass from z leaves at the output of that product. So no row of the
Jacobian J has to be formed for its products with vectors, nor for :math:`J J^T`.

In an optimizer's step the rows come multiplied by the square root of Q, the second derivative of
the loss in z: :math:`\hat J = Q^{1/2} J`, so that :math:`\hat J^T \hat J` is the Gauss-Newton
matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from .factor import Factor
from .gram import gram, symmetric_product
from .operators import LinearOperator

SMALL = 100_000
"""Entries of a Jacobian up to which it is formed, 0.8 MB in double precision. Measured on one core
with networks of two hidden layers: at 50,000 entries products with the factors take 10 times as
long as with the matrix, because calls cost more than arithmetic; at 100,000, 6 times; at 500,000,
0.6 times. Forming costs about ten products, and from 100,000 entries on the Gram matrix is faster
from factors: 0.6 of the time, and 0.9 at 50,000."""

__all__ = ["Factor", "FactoredJacobian"]


class FactoredJacobian(LinearOperator):
    r"""A Jacobian J, R x P, held as factors, and as a matrix, too, where it is small.

    It is a `LinearOperator`, so that ``J @ v``, ``J.T @ u`` and ``J.T @ J`` mean what they say:

    >>> x, c = torch.eye(2)[:, None], torch.ones(2, 1, 1)
    >>> J = FactoredJacobian([Factor(c, x), Factor(c, None)], [torch.zeros(2), torch.zeros(1)], 2)
    >>> J.dense()
    tensor([[1., 0., 1.],
            [0., 1., 1.]])
    >>> (J.T @ J) @ torch.ones(3)
    tensor([2., 2., 4.])

    Args:
        factors: the rows for each parameter; None where no row depends on it.
        like: the parameters, P entries in all.
        rows: R.
    """

    # The products are methods: bound methods in fields would make the instance refer to itself,
    # and its tensors would then be freed only when the garbage collector runs.
    factors: list[Factor | None]
    like: Sequence[Tensor]
    rows: int

    def __init__(self, factors: list[Factor | None], like: Sequence[Tensor], rows: int) -> None:
        shape = (rows, sum(param.numel() for param in like))
        dtype = next((f.left.dtype for f in factors if f is not None), like[0].dtype)
        fields = {"shape": shape, "dtype": dtype, "device": like[0].device}
        # The base is frozen, so that the fields are put where a frozen dataclass puts its own.
        self.__dict__.update(fields, factors=factors, like=like, rows=rows)

    def matvec(self, v: Tensor) -> Tensor:
        """J v, R entries."""
        if self._matrix is not None:
            return self._matrix @ v
        result = v.new_zeros(self.rows)
        pieces = torch.split(v, [param.numel() for param in self.like])
        for factor, piece in zip(self.factors, pieces, strict=True):
            if factor is not None:
                result += factor.matvec(piece)
        return result

    def rmatvec(self, u: Tensor) -> Tensor:
        """J^T u, P entries."""
        if self._matrix is not None:
            return u @ self._matrix
        total = u.new_empty(self.shape[1])
        pieces = torch.split(total, [param.numel() for param in self.like])
        for factor, piece in zip(self.factors, pieces, strict=True):
            if factor is None:
                piece.zero_()
            else:
                factor.rmatvec(u, out=piece)
        return total

    def matmat(self, V: Tensor) -> Tensor:
        """J V, R x k, for V of P x k."""
        if self._matrix is not None:
            return self._matrix @ V
        result = V.new_zeros(self.rows, V.shape[1])
        pieces = torch.split(V, [param.numel() for param in self.like])
        for factor, piece in zip(self.factors, pieces, strict=True):
            if factor is not None:
                result += factor.matmat(piece)
        return result

    def rmatmat(self, U: Tensor) -> Tensor:
        """J^T U, P x k, for U of R x k."""
        if self._matrix is not None:
            return self._matrix.T @ U
        return torch.cat(
            [
                U.new_zeros(param.numel(), U.shape[1]) if factor is None else factor.rmatmat(U)
                for factor, param in zip(self.factors, self.like, strict=True)
            ]
        )

    def gram(self) -> Tensor:
        """J J^T, R x R: the empirical neural tangent kernel of z."""
        if self._matrix is not None:
            return symmetric_product(self._matrix)
        factors = [factor for factor in self.factors if factor is not None]
        return gram(factors) if factors else self._zeros(self.rows, self.rows)

    def squared_norms(self) -> Tensor:
        """The squared norm of each row, R entries: the diagonal of J J^T."""
        if self._matrix is not None:
            return self._matrix.square().sum(1)
        total = self._zeros(self.rows)
        for factor in self.factors:
            if factor is not None:
                total += factor.squared_norms()
        return total

    def take(self, index: Tensor, scale: Tensor) -> FactoredJacobian:
        """The rows of the given numbers, each times its entry of `scale`."""
        factors = [None if f is None else f.take(index, scale) for f in self.factors]
        return FactoredJacobian(factors, self.like, len(index))

    def blocks(self, entries: int) -> Iterator[FactoredJacobian]:
        """Consecutive rows of at most so many entries, or one row; they share its memory."""
        step = max(1, entries // max(1, self.shape[1]))
        for start in range(0, self.rows, step):
            rows = slice(start, min(start + step, self.rows))
            parts = [None if factor is None else factor.part(rows) for factor in self.factors]
            yield FactoredJacobian(parts, self.like, rows.stop - start)

    def times(self, number: float) -> FactoredJacobian:
        """The rows, all times a number."""
        return self._with_lefts(lambda left: left * number, self.dtype)

    def to(self, dtype: torch.dtype) -> FactoredJacobian:
        """The same rows in another precision."""
        return self if dtype is self.dtype else self._with_lefts(lambda left: left.to(dtype), dtype)

    def _with_lefts(self, f: Callable[[Tensor], Tensor], dtype: torch.dtype) -> FactoredJacobian:
        lefts: dict[int, Tensor] = {}  # a weight and its bias share theirs afterwards, too
        factors: list[Factor | None] = []
        for factor in self.factors:
            if factor is None:
                factors.append(None)
                continue
            if factor.layer not in lefts:
                lefts[factor.layer] = f(factor.left)
            factors.append(factor.with_left(lefts[factor.layer], dtype))
        return self.with_factors(factors)

    def with_factors(self, factors: list[Factor | None]) -> FactoredJacobian:
        """The same rows, of other factors."""
        return FactoredJacobian(factors, self.like, self.rows)

    @property
    def at_hand(self) -> FactoredJacobian:
        """The rows that this process holds, whose factors are `factors`: all, unless processes
        share them.
        """
        return self

    def over_all_rows(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the rows at hand as sums over all rows."""
        return list(sums)

    def of_all_rows(self, part: Tensor) -> Tensor:
        """What is known of each row at hand, one below the other, of all rows."""
        return part

    def normal(self) -> LinearOperator:
        """J^T J, P x P, by its products."""
        return self.T @ self

    def dense(self) -> Tensor:
        """J, R x P."""
        return torch.cat(
            [
                self._zeros(self.rows, param.numel()) if factor is None else factor.dense()
                for factor, param in zip(self.factors, self.like, strict=True)
            ],
            dim=1,
        )

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    @cached_property
    def _matrix(self) -> Tensor | None:
        """J, where it is small."""
        return self.dense() if self.rows * self.shape[1] <= SMALL else None
