r"""A function space whose rows stay with the processes that have read them.

Where P is smaller than the number R of all rows, the system is solved with

.. math:: \hat J^T \hat J = \sum_r \hat J_r^T \hat J_r, \qquad
          \hat J^T u = \sum_r \hat J_r^T u_r,

P x P and P numbers, summed over the ranks r. Vectors of R entries, which are small beside that, are
gathered, so that every rank has all of them and decides alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.gram import symmetric_product
from ..linalg.operators import LinearOperator, symmetric
from ..preconditioners.function_space import FunctionSpace
from ..preconditioners.linearized_loss import TargetAt
from ..preconditioners.scaling import Scaling


@dataclass(frozen=True)
class Exchange:
    """How the ranks put together what each of them has of R rows.

    Attributes:
        total: the sum of a tensor over the ranks.
        gathered: the rows of all ranks, one below the other.
        mine: those of this one among them.
        rows: R.
        target_at: the target of all ranks at another point.
    """

    total: Callable[[Tensor], Tensor]
    gathered: Callable[[Tensor], Tensor]
    mine: slice
    rows: int
    target_at: TargetAt


class SharedJacobian(FactoredJacobian):
    """A Jacobian, R x P, of which each rank holds some rows; all must call the same products.

    Args:
        own: the rows of this rank.
        exchange: with the others.
    """

    own: FactoredJacobian
    exchange: Exchange

    def __init__(self, own: FactoredJacobian, exchange: Exchange) -> None:
        super().__init__(own.factors, own.like, exchange.rows)
        self.__dict__.update(own=own, exchange=exchange)

    def matvec(self, v: Tensor) -> Tensor:
        return self.exchange.gathered(self.own.matvec(v))

    def rmatvec(self, u: Tensor) -> Tensor:
        return self.exchange.total(self.own.rmatvec(u[self.exchange.mine]))

    def matmat(self, V: Tensor) -> Tensor:
        return self.exchange.gathered(self.own.matmat(V))

    def rmatmat(self, U: Tensor) -> Tensor:
        return self.exchange.total(self.own.rmatmat(U[self.exchange.mine]))

    def gram(self) -> Tensor:
        return symmetric_product(self.dense())

    def squared_norms(self) -> Tensor:
        return self.exchange.gathered(self.own.squared_norms())

    def take(self, index: Tensor, scale: Tensor) -> FactoredJacobian:
        """The rows of the given numbers, each times its entry of `scale`, on every rank."""
        rows = self.dense()[index] * scale[:, None]
        pieces = torch.split(rows, [param.numel() for param in self.like], 1)
        return FactoredJacobian([Factor(p[:, None], None) for p in pieces], self.like, len(index))

    def blocks(self, entries: int) -> Iterator[FactoredJacobian]:
        """Consecutive rows of at most so many entries, the same on every rank."""
        every = torch.arange(self.rows, device=self.device)
        return self.take(every, torch.ones_like(every, dtype=self.dtype)).blocks(entries)

    def to(self, dtype: torch.dtype) -> FactoredJacobian:
        return SharedJacobian(self.own.to(dtype), self.exchange)

    def times(self, number: float) -> FactoredJacobian:
        return SharedJacobian(self.own.times(number), self.exchange)

    def dense(self) -> Tensor:
        """J, R x P, on every rank."""
        return self.exchange.gathered(self.own.dense())

    def over_all_rows(self, sums: Sequence[Tensor]) -> list[Tensor]:
        flat = self.exchange.total(torch.cat([part.reshape(-1) for part in sums]))
        pieces = flat.split_with_sizes([part.numel() for part in sums])
        return [piece.view(part.shape) for piece, part in zip(pieces, sums, strict=True)]


class SharedSpace(FunctionSpace):
    """The function space of all ranks' rows, for P smaller than their number.

    Args:
        own: that of the rows of this rank; whichever it would solve with, it is asked for J^T J.
        exchange: with the others.
        target: that of all ranks, R entries; exchanged here where none is given.
        gradient: J^T target, P entries; likewise.
    """

    def __init__(
        self,
        own: FunctionSpace,
        exchange: Exchange,
        target: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> None:
        own.dual = False
        self.__dict__.update(vars(own))
        self._own, self._exchange = own, exchange
        self.jacobian = SharedJacobian(own.jacobian, exchange)
        self.target = exchange.gathered(own.target) if target is None else target
        self.gradient = exchange.total(own.gradient) if gradient is None else gradient
        self.target_at = exchange.target_at

    @cached_property
    def gram(self) -> Tensor:
        """J^T J, P x P."""
        return self._exchange.total(self._own.gram)

    def scaled(self, scaling: Scaling) -> FunctionSpace:
        gradient = scaling.vector * self.gradient
        return SharedSpace(self._own.scaled(scaling), self._exchange, self.target, gradient)

    def times(self, number: float) -> FunctionSpace:
        def target_at(loss: Tensor) -> Tensor | None:
            found = before(loss)
            return None if found is None else found * number

        before = self._exchange.target_at
        exchange = replace(self._exchange, target_at=target_at)
        target, gradient = self.target * number, self.gradient * number**2
        return SharedSpace(self._own.times(number), exchange, target, gradient)

    def gauss_newton(self) -> LinearOperator:
        """The Gauss-Newton matrix of all rows, P x P, by P numbers exchanged a product."""
        own, total = self._own.gauss_newton(), self._exchange.total

        def product(V: Tensor) -> Tensor:
            return total(own @ V)

        return symmetric(self.size, product, dtype=own.dtype, device=own.device, matmat=product)
