r"""A Jacobian whose rows stay with the processes that have read them.

With the rows :math:`\hat J_r` of rank r,

.. math:: \hat J^T \hat J = \sum_r \hat J_r^T \hat J_r, \qquad
          \hat J^T u = \sum_r \hat J_r^T u_r,

P x P and P numbers, summed over the ranks. Vectors of R entries are gathered, and so are few
columns of :math:`\hat J \hat J^T`, so that every rank has all of them and decides alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.gram import symmetric_product
from ..linalg.operators import LinearOperator, symmetric


@dataclass(frozen=True)
class Exchange:
    """How the ranks put together what each of them has of R rows.

    Attributes:
        total: the sum of a tensor over the ranks.
        gathered: the rows of all ranks, one below the other.
        mine: those of this one among them.
        rows: R.
    """

    total: Callable[[Tensor], Tensor]
    gathered: Callable[[Tensor], Tensor]
    mine: slice
    rows: int


class SharedJacobian(FactoredJacobian):
    """A Jacobian, R x P, of which each rank holds some rows; all must call the same products.

    Args:
        own: the rows of this rank, as factors that have the same shape on every rank but for
            the number of rows (`joined_rows.alike`).
        exchange: with the others.
    """

    own: FactoredJacobian
    exchange: Exchange

    def __init__(self, own: FactoredJacobian, exchange: Exchange) -> None:
        super().__init__(own.factors, own.like, exchange.rows)
        self.__dict__.update(own=own, exchange=exchange)

    @property
    def at_hand(self) -> FactoredJacobian:
        return self.own

    def with_factors(self, factors: list[Factor | None]) -> FactoredJacobian:
        return SharedJacobian(self.own.with_factors(factors), self.exchange)

    def matvec(self, v: Tensor) -> Tensor:
        return self.exchange.gathered(self.own.matvec(v))

    def rmatvec(self, u: Tensor) -> Tensor:
        return self.exchange.total(self.own.rmatvec(u[self.exchange.mine]))

    def matmat(self, V: Tensor) -> Tensor:
        return self.exchange.gathered(self.own.matmat(V))

    def rmatmat(self, U: Tensor) -> Tensor:
        return self.exchange.total(self.own.rmatmat(U[self.exchange.mine]))

    def normal(self) -> LinearOperator:
        """J^T J, P x P, by P numbers exchanged a product."""
        own, total = self.own.normal(), self.exchange.total

        def product(V: Tensor) -> Tensor:
            return total(own @ V)

        size = self.shape[1]
        return symmetric(size, product, dtype=self.dtype, device=self.device, matmat=product)

    def gram(self) -> Tensor:
        return symmetric_product(self.dense())

    def squared_norms(self) -> Tensor:
        return self.exchange.gathered(self.own.squared_norms())

    def take(self, index: Tensor, scale: Tensor) -> FactoredJacobian:
        """The rows of the given numbers, each times its entry of `scale`, on every rank.

        Each rank writes those that it holds into zeros, and the sum over the ranks is exact.
        """
        first, end = self.exchange.mine.start, self.exchange.mine.stop
        here = ((index >= first) & (index < end)).nonzero()[:, 0]
        numbers, parts = index[here] - first, tensors_of(self.own)
        filled = {
            key: part.new_zeros(len(index), *part.shape[1:]).index_copy_(0, here, part[numbers])
            for key, part in parts.items()
        }
        chosen = made_of(self.own, self._summed(filled), len(index))
        return chosen.take(torch.arange(len(index), device=index.device), scale)

    def _summed(self, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Tensors of one or several precisions, summed over the ranks."""
        total: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(part.dtype for part in parts.values()):
            group = {key: part for key, part in parts.items() if part.dtype is dtype}
            sums = self.over_all_rows(list(group.values()))
            total.update(zip(group, sums, strict=True))
        return total

    def blocks(self, entries: int) -> Iterator[FactoredJacobian]:
        """Consecutive rows of at most so many entries, the same on every rank."""
        every = torch.arange(self.rows, device=self.device)
        return self.take(every, torch.ones_like(every, dtype=self.dtype)).blocks(entries)

    def dense(self) -> Tensor:
        """J, R x P, on every rank."""
        return self.exchange.gathered(self.own.dense())

    def over_all_rows(self, sums: Sequence[Tensor]) -> list[Tensor]:
        if len(sums) <= 1:
            return [self.exchange.total(part) for part in sums]
        flat = self.exchange.total(torch.cat([part.reshape(-1) for part in sums]))
        pieces = flat.split_with_sizes([part.numel() for part in sums])
        return [piece.view(part.shape) for piece, part in zip(pieces, sums, strict=True)]

    def of_all_rows(self, part: Tensor) -> Tensor:
        return self.exchange.gathered(part)


def tensors_of(jacobian: FactoredJacobian) -> dict[int, Tensor]:
    """The different tensors of which its factors consist, R entries long, by their `id`."""
    factors = [factor for factor in jacobian.factors if factor is not None]
    return {id(part): part for factor in factors for part in factor.tensors()}


def made_of(jacobian: FactoredJacobian, parts: Mapping[int, Tensor], rows: int) -> FactoredJacobian:
    """A Jacobian of other rows, each of whose tensors stands for one of this one's."""
    factors = [
        None if factor is None else factor.made_of(*(parts[id(part)] for part in factor.tensors()))
        for factor in jacobian.factors
    ]
    return FactoredJacobian(factors, jacobian.like, rows)
