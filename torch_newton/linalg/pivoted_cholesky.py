r"""A factor of low rank of the kernel :math:`K = J J^T`, from few of its columns.

Randomly pivoted Cholesky (Chen, Epperly, Tropp and Webber 2022, *Randomly pivoted Cholesky:
practical approximation of a kernel matrix with few entry evaluations*) draws each row with a
probability proportional to what the rows before have left of its diagonal entry, so that
:math:`K - F F^T` stays positive semidefinite and its trace is known. Rows are drawn in blocks, and
one that others of its block make needless is rejected (Epperly, Tropp and Webber 2024, *Embrace
rejection: kernel matrix approximation by accelerated randomly pivoted Cholesky*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .factored_jacobian import FactoredJacobian
from .kernel_columns import columns, kernel_columns

BLOCK = 400
"""Rows drawn at a time. Chosen: each block forms the rows of J once, which takes as long as 50
columns do; of 400 rows that are drawn on Burgers' equation some 60 to 100 are kept."""

ROUNDING = 100.0
"""Units of rounding of the trace of K that are left at least: below, what is left of a diagonal
entry is the difference of equal numbers. Measured on Burgers' equation: at 100 units the basis that
belongs to the factor is orthonormal to 1e-2, and at 10 no longer."""

PANEL = 64
"""Rows of a block that are accepted or rejected one by one before what they leave of the others is
computed, all at once. Row by row throughout, 2,048 rows took 6 s, and so 0.26 s."""


class PivotedCholesky:
    r"""A growing factor :math:`F F^T \approx J J^T`, with the trace of what it leaves.

    With the chosen rows :math:`J_S` and the Cholesky factor L of :math:`J_S J_S^T`,
    :math:`F = J J_S^T L^{-T}`, and the rows of :math:`L^{-1} J_S` are orthonormal.

    Attributes:
        jacobian: J, R x P.
        pivots: S, k different numbers of rows, in the order in which they were chosen.
        triangle: L, k x k, in double precision.
        left: the diagonal of K - F F^T, R entries.
        trace: that of K.
        fall: what the last block left of the trace that was left before; zero at first.
        block: columns that it had.
    """

    def __init__(self, jacobian: FactoredJacobian) -> None:
        self.jacobian = jacobian
        self.pivots: list[int] = []
        self.left: Tensor = jacobian.squared_norms()
        self.trace: float = float(self.left.sum())
        self.fall: float = 0.0
        self.block: int = 50  # until there is one
        self.triangle: Tensor = torch.zeros(0, 0, dtype=torch.float64, device=self.left.device)
        self._parts: list[Tensor] = []
        self._rows: FactoredJacobian | None = None
        self._generator = torch.Generator().manual_seed(0)

    @property
    def rank(self) -> int:
        """k."""
        return len(self.pivots)

    @property
    def trace_left(self) -> float:
        """The trace of K - F F^T, which bounds its norm."""
        return float(self.left.sum())

    @property
    def exhausted(self) -> bool:
        """Whether rounding is all that is left."""
        least = ROUNDING * torch.finfo(self.left.dtype).eps * self.trace
        return self.rank >= self.jacobian.rows or not self.trace_left > least

    @property
    def factor(self) -> Tensor:
        """F, R x k."""
        if len(self._parts) != 1:
            parts = self._parts or [self.left.new_zeros(self.jacobian.rows, 0)]
            self._parts = [torch.cat(parts, 1)]
        return self._parts[0]

    @property
    def rows(self) -> FactoredJacobian:
        """J_S, k rows."""
        if self._rows is None or self._rows.rows != self.rank:
            self._rows = _rows(self.jacobian, self.pivots)
        return self._rows

    def extend(self, count: int = BLOCK, proposed: Sequence[int] | None = None) -> int:
        """Choose more rows; returns how many.

        Args:
            count: how many are drawn, of which some are rejected.
            proposed: rows to choose from in place of drawn ones, such as those of an earlier
                factor; one is rejected that the others leave hardly anything of.
        """
        if self.exhausted:
            return 0
        known = set(self.pivots)
        if proposed is None:
            weights = self.left.clamp_min(0).cpu().double()
            number = min(count, int(weights.count_nonzero()))
            drawn = torch.multinomial(weights, number, False, generator=self._generator).tolist()
            luck = torch.rand(number, generator=self._generator, dtype=torch.float64).tolist()
        else:
            drawn = list(dict.fromkeys(i for i in proposed if 0 <= i < self.jacobian.rows))
            luck = [0.0] * len(drawn)
        pairs = [(i, u) for i, u in zip(drawn, luck, strict=True) if i not in known]
        if not pairs:
            return 0
        before = self.trace_left
        found = self._add([i for i, _ in pairs], [u for _, u in pairs])
        self.fall, self.block = self.trace_left / before, max(found, 1)
        return found

    def _add(self, drawn: list[int], luck: list[float]) -> int:
        """Append the rows that are not rejected."""
        like, old = self.left, self.triangle
        candidates = _rows(self.jacobian, drawn)
        across = candidates.to(torch.float64).factors
        inner = columns(across, across, old.new_zeros(len(drawn), len(drawn)))
        if self.rank:
            beside = old.new_zeros(self.rank, len(drawn))
            columns(self.rows.to(torch.float64).factors, across, beside)
            beside = torch.linalg.solve_triangular(old, beside, upper=False).T
            inner = inner - beside @ beside.T
        else:
            beside = inner.new_zeros(len(drawn), 0)
        least = ROUNDING * torch.finfo(like.dtype).eps * self.trace / self.jacobian.rows
        kept = accepted(inner, luck, least)
        if not kept:
            self.left[torch.tensor(drawn, device=like.device)] = 0.0  # rounding made them look new
            return 0
        index = torch.tensor(kept, device=like.device)
        corner = torch.linalg.cholesky(inner[index][:, index])
        below = beside[index]
        chosen = [drawn[i] for i in kept]
        new = kernel_columns(self.jacobian, _rows(self.jacobian, chosen))
        if self.rank:
            new -= self.factor @ below.T.to(like.dtype)
        part = torch.linalg.solve_triangular(corner.to(like.dtype), new.T, upper=False).T
        self._parts.append(part)
        self.left = (self.left - part.square().sum(1)).clamp_min(0.0)
        self.pivots += chosen
        self.left[torch.tensor(self.pivots, device=like.device)] = 0.0
        top = torch.cat([old, old.new_zeros(len(old), len(corner))], 1)
        self.triangle = torch.cat([top, torch.cat([below, corner], 1)])
        return len(kept)


def accepted(matrix: Tensor, luck: Sequence[float], least: float) -> list[int]:
    """Which rows of a block to keep: row i if what those kept before leave of its diagonal entry
    is more than a random share of it.

    Args:
        matrix: what is left of the kernel in these rows, b x b.
        luck: the share, a number in [0, 1) for each row.
        least: what a row must have left in any case.
    """
    remaining = matrix.detach().cpu().double().clone()
    first = remaining.diagonal().clone()
    kept: list[int] = []
    for start in range(0, len(luck), PANEL):
        end = start + PANEL
        panel = remaining[start:end, start:end]
        found = _accepted(panel.clone(), luck[start:end], first[start:end].tolist(), least)
        kept += [start + i for i in found]
        if found and end < len(luck):
            # What the rows kept here leave of those to come, by one product.
            corner = torch.linalg.cholesky(panel[found][:, found])
            below = remaining[end:, start:end][:, found]
            below = torch.linalg.solve_triangular(corner, below.T, upper=False).T
            remaining[end:, end:] -= below @ below.T
    return kept


def _accepted(
    remaining: Tensor, luck: Sequence[float], first: Sequence[float], least: float
) -> list[int]:
    """The same of one panel, row by row, given the diagonal before any row was kept."""
    kept = []
    for i, share in enumerate(luck):
        pivot = float(remaining[i, i])
        if pivot > max(least, share * first[i], 0.0):
            kept.append(i)
            column = remaining[i:, i] / math.sqrt(pivot)
            remaining[i:, i:] -= torch.outer(column, column)
    return kept


def _rows(jacobian: FactoredJacobian, numbers: Sequence[int]) -> FactoredJacobian:
    """Rows of the given numbers."""
    index = torch.tensor(list(numbers), dtype=torch.long, device=jacobian.like[0].device)
    return jacobian.take(index, torch.ones(len(index), dtype=jacobian.dtype, device=index.device))
