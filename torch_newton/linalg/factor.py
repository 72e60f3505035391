"""The rows of a Jacobian for one parameter, as products of short vectors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Factor:
    r"""Rows of the Jacobian for one parameter: :math:`J_m = \sum_k L_{mk} \otimes R_{mk}`.

    Attributes:
        left: R x K x a.
        right: R x K x b, or None for a parameter whose rows are the sums of L alone.
        uses: for consecutive blocks of rows how many rows they have, and how many of the K uses,
            the rest being zero; empty where all rows have all uses.
    """

    left: Tensor
    right: Tensor | None
    uses: tuple[tuple[int, int], ...] = ()

    def matvec(self, v: Tensor) -> Tensor:
        """J v, R entries."""
        if self.right is None:
            return self._sums() @ v.reshape(-1)
        v = v.reshape(self.left.shape[2], self.right.shape[2])
        return ((self.left @ v) * self.right).sum((1, 2))

    def rmatvec(self, u: Tensor) -> Tensor:
        """J^T u, a b entries."""
        if self.right is None:
            return u @ self._sums()
        weighted = self.left * u[:, None, None]
        return (weighted.flatten(0, 1).T @ self.right.flatten(0, 1)).reshape(-1)

    def dense(self) -> Tensor:
        """J, R x (a b)."""
        if self.right is None:
            return self._sums()
        if self.left.shape[1] == 1:
            return (self.left[:, 0, :, None] * self.right).flatten(1)
        return (self.left.mT @ self.right).flatten(1)

    def squared_norms(self) -> Tensor:
        """The squared norm of each row."""
        if self.right is None:
            return self._sums().square().sum(1)
        return ((self.left @ self.left.mT) * (self.right @ self.right.mT)).sum((1, 2))

    def take(self, index: Tensor, scale: Tensor) -> Factor:
        """Some of the rows, each times a number."""
        right = None if self.right is None else self.right[index]
        return Factor(self.left[index] * scale[:, None, None], right)

    def fits(self, param: Tensor) -> bool:
        """Whether its rows have as many entries as `param`."""
        b = 1 if self.right is None else self.right.shape[2]
        return self.left.shape[2] * b == param.numel()

    def is_small(self) -> bool:
        """Whether the rows themselves take no more memory than the factors of several uses."""
        if self.left.shape[1] == 1 or self.right is None:
            return self.left.shape[1] > 1
        uses, a, b = *self.left.shape[1:], self.right.shape[2]
        return a * b <= uses * (a + b)

    def blocks(self) -> list[tuple[slice, Factor]]:
        """Consecutive rows that have the same number of uses, without those that are zero."""
        found, start = [], 0
        for rows, uses in self.uses or ((self.left.shape[0], self.left.shape[1]),):
            part = slice(start, start + rows)
            right = None if self.right is None else self.right[part, :uses]
            found.append((part, Factor(self.left[part, :uses], right)))
            start += rows
        return found

    def _sums(self) -> Tensor:
        return self.left[:, 0] if self.left.shape[1] == 1 else self.left.sum(1)
