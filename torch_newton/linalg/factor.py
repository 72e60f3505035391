"""The Jacobian of one parameter, as products of short vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FORMED = 2**22
"""Entries of J that `Factor.matmat` forms at a time: 32 MiB in double precision, so that a layer
whose Jacobian does not fit into memory can still be multiplied, and enough rows for a matrix
product to run at full speed."""


@dataclass(frozen=True, eq=False)
class Factor:
    r"""R rows of the Jacobian for one parameter: :math:`J_m = \sum_k L_{mk} \otimes R_{mk}`.

    Attributes:
        left: L, R x K x a.
        right: R x K x b, or None for a parameter of a entries whose rows are the sums of L over k.
        uses: for consecutive blocks of rows, how many rows a block has and how many of the K
            uses; the other uses are zero. Empty where all rows have all uses.
    """

    left: Tensor
    right: Tensor | None
    uses: tuple[tuple[int, int], ...] = ()

    @property
    def layer(self) -> int:
        """A number that two factors have in common where they hold the very same L.

        A weight and the bias beside it do: both are multiplied by the cotangents of one
        operation. The number is meaningful as long as the factors are alive.
        """
        return id(self.left)

    def tensors(self) -> tuple[Tensor, ...]:
        """What it consists of, each with R entries along its first dimension."""
        return (self.left,) if self.right is None else (self.left, self.right)

    def made_of(self, left: Tensor, other: Tensor | None = None) -> Factor:
        """A factor of other rows, of the same kind, from what `tensors` gives of it."""
        return Factor(left, other)

    def matvec(self, v: Tensor) -> Tensor:
        """J v, R entries, for v of a b entries."""
        if self.right is None:
            return self._sums() @ v.reshape(-1)
        v = v.reshape(self.left.shape[2], self.right.shape[2])
        return ((self.left @ v) * self.right).sum((1, 2))

    def rmatvec(self, u: Tensor, out: Tensor | None = None) -> Tensor:
        """J^T u, a b entries, for u of R entries; in the memory of `out`, if that is given."""
        out = u.new_empty(self.size) if out is None else out
        if self.right is None:
            return torch.mv(self._sums().T, u, out=out)
        weighted = (self.left * u[:, None, None]).flatten(0, 1)
        product = out.view(self.left.shape[2], self.right.shape[2])
        torch.mm(weighted.T, self.right.flatten(0, 1), out=product)
        return out

    def matmat(self, V: Tensor) -> Tensor:
        """J V, R x k, for V of a b x k.

        The rows are formed, some at a time: that costs no more operations than the products with
        L and R would, and leaves one large matrix product.
        """
        return torch.cat([factor.dense() @ V for _, factor in self._slices()])

    def rmatmat(self, U: Tensor) -> Tensor:
        """J^T U, a b x k, for U of R x k."""
        total = U.new_zeros(self.size, U.shape[1])
        for rows, factor in self._slices():
            total.addmm_(factor.dense().T, U[rows])
        return total

    def dense(self) -> Tensor:
        """J, R x (a b)."""
        if self.right is None:
            return self._sums()
        if self.left.shape[1] == 1:
            return (self.left[:, 0, :, None] * self.right).flatten(1)
        return (self.left.mT @ self.right).flatten(1)

    def squared_norms(self) -> Tensor:
        """The squared norm of each row, R entries."""
        if self.right is None:
            return self._sums().square().sum(1)
        return ((self.left @ self.left.mT) * (self.right @ self.right.mT)).sum((1, 2))

    def take(self, index: Tensor, scale: Tensor) -> Factor:
        """The rows of the given numbers, each times its entry of `scale`."""
        right = None if self.right is None else self.right[index]
        return Factor(self.left[index] * scale[:, None, None], right)

    @property
    def size(self) -> int:
        """Entries of a row: a b."""
        return self.left.shape[2] * (1 if self.right is None else self.right.shape[2])

    def fits(self, param: Tensor) -> bool:
        """Whether its rows have as many entries as `param`."""
        return self.size == param.numel()

    def is_small(self) -> bool:
        """Whether several uses take as much memory as the rows themselves, or more."""
        uses = self.left.shape[1]
        if uses == 1 or self.right is None:
            return uses > 1
        return self.size <= uses * (self.left.shape[2] + self.right.shape[2])

    def blocks(self) -> list[tuple[slice, Factor]]:
        """Consecutive rows with the same number of uses, without the uses that are zero."""
        found, start = [], 0
        for rows, uses in self.uses or ((self.left.shape[0], self.left.shape[1]),):
            part = slice(start, start + rows)
            right = None if self.right is None else self.right[part, :uses]
            found.append((part, Factor(self.left[part, :uses], right)))
            start += rows
        return found

    def part(self, rows: slice) -> Factor:
        """Consecutive rows."""
        return Factor(self.left[rows], None if self.right is None else self.right[rows])

    def with_left(self, left: Tensor, dtype: torch.dtype) -> Factor:
        """The same with another L, and R in another precision."""
        return replace(self, left=left, right=None if self.right is None else self.right.to(dtype))

    def _slices(self) -> Iterator[tuple[slice, Factor]]:
        """Consecutive rows of at most `FORMED` entries, or one row."""
        step = max(1, FORMED // max(1, self.size))
        for start in range(0, self.left.shape[0], step):
            rows = slice(start, start + step)
            yield rows, self.part(rows)

    def _sums(self) -> Tensor:
        return self.left[:, 0] if self.left.shape[1] == 1 else self.left.sum(1)
