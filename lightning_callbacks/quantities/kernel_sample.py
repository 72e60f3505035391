"""The tangent kernel of a sample of its rows, where there are too many to have them all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_newton import LinearOperator

from ..allowance import SAFETY
from ..bounded import BASIS_BYTES
from ..point import Point
from .base import Measured, Need, Quantity

PROBES = 8
"""Random combinations for the trace, a backward pass each: their spread is then known to a quarter,
as that of a sample of eight is, 1/sqrt(2 * 7)."""


class KernelSample(Quantity):
    r"""Eigenvalues of a principal submatrix of :math:`K = J J^T`, and the trace of all of it.

    With S a sample of m of the R rows, drawn uniformly without replacement and the same at every
    measurement, the eigenvalues of :math:`K_{SS} = J_S J_S^T` interlace those of K (Cauchy):
    :math:`\lambda_{min}(K) \le \lambda_{min}(K_{SS})` and
    :math:`\lambda_{max}(K_{SS}) \le \lambda_{max}(K)`. So the sample's extremes bound those of all
    rows from one side each, surely but for rounding. R/m times the sample's largest bounds nothing.
    The trace of K is the mean of :math:`\|J^T u\|^2` over random signs u (Hutchinson 1990), one
    backward pass each whatever the number of outputs.

    Costs m + 8 backward passes, in one pause: m is smaller where fewer fit, or J_S exceeds 1 GiB.

    Args:
        rows: m at most.

    Raises:
        ValueError: `rows` is less than 2.
    """

    name = "ntk_sample"
    needs: frozenset[Need] = frozenset({Need.GRADIENT})
    documentation: tuple[tuple[str, str], ...] = (
        ("ntk_sample/rows", "m, rows of J J^T in the sample"),
        ("ntk_sample/all_rows", "R, rows of J J^T"),
        ("ntk_sample/lambda_min", "the sample's smallest eigenvalue: that of all is no larger"),
        ("ntk_sample/lambda_max", "the sample's largest eigenvalue: that of all is no smaller"),
        ("ntk_sample/error", "rounding in both"),
        ("ntk_sample/trace", "trace of J J^T, of all rows"),
        ("ntk_sample/trace_error", "its standard error"),
    )

    def __init__(self, rows: int = 64) -> None:
        if rows < 2:
            raise ValueError(f"a sample has at least 2 rows, not {rows}")
        self.rows = rows

    def compute(self, point: Point) -> Measured:
        """The numbers; none where the loss shows no outputs.

        Raises:
            OutOfTimeError: there is no time for two rows.
        """
        K = point.kernel_products
        if K is None:
            return Measured({})
        J, random = K.J, torch.Generator().manual_seed(0)
        order = torch.randperm(J.shape[0], generator=random)
        chosen = order[: self._affordable(point, J)]
        began = point.allowance.now()
        sample = self._rows(J, chosen)
        signs = 2.0 * torch.randint(2, (PROBES, J.shape[0]), generator=random) - 1
        squares = torch.stack(
            [J.rmatvec(u.to(J.device, J.dtype)).double().square().sum() for u in signs]
        )
        seconds = point.allowance.now() - began
        point.allowance.costs.put("row", seconds / (len(chosen) + PROBES))
        gram = (sample @ sample.T).double()
        if not bool(torch.isfinite(gram).all()):
            return Measured(self.unknown())
        values = torch.linalg.eigvalsh((gram + gram.T) / 2)
        trace, error = float(squares.mean()), float(squares.std()) / math.sqrt(PROBES)
        found = (
            len(chosen), J.shape[0], max(0.0, float(values[0])), float(values[-1]),
            len(chosen) * point.epsilon * float(values[-1]), trace, error,
        )  # fmt: skip
        keys = [key for key, _ in self.documentation]
        return Measured(dict(zip(keys, map(float, found), strict=True)))

    def _affordable(self, point: Point, J: LinearOperator) -> int:
        """Rows that fit into this pause and into memory, at least two."""
        allowance, width = point.allowance, J.shape[1] * point.gradient.element_size()
        rows = min(self.rows, J.shape[0], max(2, BASIS_BYTES // max(width, 1)))
        if allowance.unlimited:
            return rows
        cost = allowance.estimate("row", allowance.estimate("gradient"))
        allowance.require((2 + PROBES) * cost)
        fit = allowance.left() / (SAFETY * max(cost, 1e-9)) - PROBES
        allowance.reduced |= fit < rows
        return int(max(2, min(rows, fit)))

    @staticmethod
    def _rows(J: LinearOperator, chosen: Tensor) -> Tensor:
        """Rows of J, m x P, by a backward pass each."""
        one = torch.zeros(J.shape[0], len(chosen), dtype=J.dtype, device=J.device)
        one[chosen.to(J.device), torch.arange(len(chosen), device=J.device)] = 1
        return (J.T @ one).T
