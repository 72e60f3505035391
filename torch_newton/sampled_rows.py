r"""A preconditioner for more rows than a Cholesky factor can take: that of some of the rows.

With m of the R rows of :math:`\hat J`, row i drawn with probability :math:`p_i` proportional to
its squared norm and divided by :math:`\sqrt{m p_i}`, the mean of :math:`\tilde J^T \tilde J` is
the Gauss-Newton matrix (Drineas, Kannan and Mahoney 2006, *Fast Monte Carlo algorithms for
matrices I*), and its damped inverse costs what function space costs with m rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .function_space import FunctionSpace, read_rows
from .preconditioners import AtDamping
from .residuals import find_residuals
from .tangents import Tangents


@dataclass(frozen=True)
class SampledRows:
    """The damped inverse of a Gauss-Newton matrix, from a sample of its rows.

    Args:
        rows: m, how many of them.
    """

    rows: int = 1000

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("rows must be at least 1")

    def __call__(self, loss: Tensor, params: Sequence[Tensor]) -> AtDamping | None:
        """None where the loss or its graph holds what is not known."""
        found = read_rows(find_residuals(loss), params)
        return None if found is None else self.of(found[0])

    def of(self, tangents: Tangents) -> AtDamping:
        """The inverse for rows that have been read already."""
        chosen = sample(tangents, self.rows)
        space = FunctionSpace(chosen, chosen.like[0].new_zeros(chosen.rows))
        return lambda damping: space.at(damping).operator()


def sample(tangents: Tangents, count: int) -> Tangents:
    """`count` rows, drawn independently and scaled; the same ones at each call."""
    weights = tangents.squared_norms()
    weights = weights + 1e-3 * weights.mean()
    probability = weights / weights.sum()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(probability.cpu().double(), count, True, generator=generator)
    index, times = torch.unique(drawn.to(probability.device), return_counts=True)
    return tangents.take(index, (times / (count * probability[index])).sqrt())
