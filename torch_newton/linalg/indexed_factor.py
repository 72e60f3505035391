"""The Jacobian of a table of which each row of J uses few entries: embeddings, latent codes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .factor import FORMED, Factor

PAIR = 300
r"""Cost of one multiplication in :math:`\langle v_i, v_j \rangle` over listed pairs of uses, whose
vectors are gathered and whose results are scattered, in multiplications of one large matrix
product. Measured on one core: 190 to 350 for vectors of 8 to 64 entries, 640 for 4."""


@dataclass(frozen=True, eq=False)
class IndexedFactor(Factor):
    r"""R rows of the Jacobian for a table of n x b entries:
    :math:`J_m = \sum_k e_{i_{mk}} \otimes L_{mk}`, with :math:`e_i` the i-th unit vector.

    It is the `Factor` whose other operand is one-hot, without the n entries of each unit vector.

    Attributes:
        left: L, R x K x b. No :math:`i_{mk}` occurs twice in a row m, except with L = 0.
        index: i, R x K.
        number: n.
    """

    index: Tensor = field(kw_only=True)
    number: int = field(kw_only=True)

    @classmethod
    def of(cls, index: Tensor, values: Tensor, number: int) -> IndexedFactor:
        """Of uses that may repeat within a row: those of the same index are added up."""
        if index.shape[1] == 1:
            return cls(values, None, index=index, number=number)
        index, order = index.sort(1)
        values = values.gather(1, order[:, :, None].expand_as(values))
        starts = torch.ones_like(index)
        starts[:, 1:] = index[:, 1:] != index[:, :-1]
        slot = starts.cumsum(1) - 1
        slots = slot[:, :, None].expand_as(values)
        summed = torch.zeros_like(values).scatter_add_(1, slots, values)
        kept = int(slot.max()) + 1
        first = torch.zeros_like(index).scatter_(1, slot, index)
        return cls(summed[:, :kept], None, index=first[:, :kept], number=number)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.left, self.index

    def made_of(self, left: Tensor, other: Tensor | None = None) -> IndexedFactor:
        return replace(self, left=left, index=self.index if other is None else other)

    def matvec(self, v: Tensor) -> Tensor:
        """J v, R entries, for v of n b entries."""
        return (v.reshape(self.number, -1)[self.index] * self.left).sum((1, 2))

    def rmatvec(self, u: Tensor, out: Tensor | None = None) -> Tensor:
        """J^T u, n b entries, for u of R entries; in the memory of `out`, if that is given."""
        found = self._scattered(self.left * u[:, None, None]).reshape(-1)
        return found if out is None else out.copy_(found)

    def matmat(self, V: Tensor) -> Tensor:
        """J V, R x k, for V of n b x k."""
        table = V.reshape(self.number, -1, V.shape[1])
        return torch.stack([self.matvec(column) for column in table.unbind(2)], 1)

    def rmatmat(self, U: Tensor) -> Tensor:
        """J^T U, n b x k, for U of R x k."""
        return torch.stack([self.rmatvec(u) for u in U.unbind(1)], 1)

    def dense(self) -> Tensor:
        """J, R x (n b)."""
        rows, _, b = self.left.shape
        full = self.left.new_zeros(rows, self.number, b)
        full.scatter_add_(1, self.index[:, :, None].expand_as(self.left), self.left)
        return full.flatten(1)

    def plain(self) -> Factor:
        """The same with one-hot vectors, R x K x n."""
        hot = self.index[:, :, None] == torch.arange(self.number, device=self.index.device)
        return Factor(hot.to(self.left.dtype), self.left)

    def squared_norms(self) -> Tensor:
        """The squared norm of each row, R entries."""
        return self.left.square().sum((1, 2))

    def sums_of_squares(self) -> tuple[Tensor, Tensor]:
        """The row sums and the column sums of the diagonal of J^T J as an n x b matrix."""
        squares = self.left.square()
        return self._scattered(squares.sum(2, keepdim=True))[:, 0], squares.sum((0, 1))

    def rescaled(self, rows: Tensor, columns: Tensor) -> IndexedFactor:
        """J times a diagonal matrix, the outer product of n and of b entries."""
        return replace(self, left=self.left * rows[self.index][:, :, None] * columns)

    def take(self, index: Tensor, scale: Tensor) -> IndexedFactor:
        """The rows of the given numbers, each times its entry of `scale`."""
        left = self.left[index] * scale[:, None, None]
        return replace(self, left=left, index=self.index[index])

    def part(self, rows: slice) -> IndexedFactor:
        """Consecutive rows."""
        return replace(self, left=self.left[rows], index=self.index[rows])

    @property
    def size(self) -> int:
        """Entries of a row: n b."""
        return self.number * self.left.shape[2]

    def is_small(self) -> bool:
        """Never: the rows themselves have n b entries."""
        return False

    def used(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of uses whose L is not zero: row of J, row of the table, and L, in the table's order."""
        uses = self.left.flatten(0, 1)
        kept = uses.any(1).nonzero()[:, 0]
        table, order = self.index.reshape(-1)[kept].sort(stable=True)
        kept = kept[order]
        return kept // self.left.shape[1], table, uses[kept]

    def add_gram(self, total: Tensor) -> None:
        """Add J J^T to `total`, R x R: the products of uses of the same row of the table.

        With g uses of one row of the table there are g^2 pairs. Either they are listed, or the
        rows of J are formed in the columns of the table that are used, whichever costs less.
        """
        rows, table, values = self.used()
        counts = torch.bincount(table)
        counts = counts[counts > 0]
        if PAIR * int(counts.square().sum()) < len(total) ** 2 * len(counts):
            _add_pairs(total, rows, values, counts)
        else:
            _add_formed(total, rows, values, counts)

    def _scattered(self, values: Tensor) -> Tensor:
        table = values.new_zeros(self.number, values.shape[2])
        return table.index_add_(0, self.index.reshape(-1), values.flatten(0, 1))


def _add_pairs(total: Tensor, rows: Tensor, values: Tensor, counts: Tensor) -> None:
    """Of uses in groups of `counts`, the product of each pair within a group."""
    flat, size = total.view(-1), len(total)
    partners = counts.repeat_interleave(counts)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    ends = partners.cumsum(0)
    limit = max(1, FORMED // max(1, values.shape[1]))
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, before + limit, right=True)))
        n = partners[start:stop]
        one = torch.arange(start, stop, device=n.device).repeat_interleave(n)
        within = torch.arange(len(one), device=n.device) - (n.cumsum(0) - n).repeat_interleave(n)
        other = first[one] + within
        products = (values[one] * values[other]).sum(1)
        flat.index_add_(0, rows[one] * size + rows[other], products)
        start = stop


def _add_formed(total: Tensor, rows: Tensor, values: Tensor, counts: Tensor) -> None:
    """The rows of J in the columns of the table that are used, some columns at a time."""
    ends = counts.cumsum(0)
    column = torch.arange(len(counts), device=rows.device).repeat_interleave(counts)
    width = max(1, FORMED // (len(total) * values.shape[1]))
    for start in range(0, len(counts), width):
        stop = min(start + width, len(counts))
        part = slice(int(ends[start - 1]) if start else 0, int(ends[stop - 1]))
        formed = values.new_zeros(len(total), stop - start, values.shape[1])
        formed.index_put_((rows[part], column[part] - start), values[part], accumulate=True)
        total.addmm_(formed.flatten(1), formed.flatten(1).T)
