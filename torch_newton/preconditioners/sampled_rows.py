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

from ..graph.reading import Reading
from ..graph.residuals import Residuals, read_residuals
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.operators import LinearOperator
from .base import AtDamping
from .function_space import FunctionSpace
from .linearized_loss import LinearizedLoss, linearize

COUNT = 1000
"""Rows of a sample. Chosen: more make a better preconditioner and a dearer one, and the Cholesky
factor of a thousand takes 3e8 operations, hundredths of a second on one core."""


@dataclass(frozen=True)
class SampledRows:
    """The damped inverse of a Gauss-Newton matrix, from a sample of its rows.

    Args:
        rows: m, how many of them.
    """

    rows: int = COUNT

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("rows must be at least 1")

    def __call__(self, loss: Tensor, params: Sequence[Tensor]) -> AtDamping | None:
        """None where the loss or its graph holds what is not known."""
        found = sampled_space(read_residuals(loss), params, count=self.rows)
        return None if found is None else found.at


class SampledSpace:
    """All rows of a Gauss-Newton matrix, and the damped inverse that a sample of them gives.

    Attributes:
        jacobian: all rows, R x P.
        shift: see `FunctionSpace`; None where the Jacobian leaves out no parameter.
        reading: how the Jacobian was read; None for one that was not read off a graph.
        exact: whether Q is the loss's own, rather than a matrix above it.
    """

    def __init__(
        self,
        jacobian: FactoredJacobian,
        count: int,
        shift: Tensor | None = None,
        reading: Reading | None = None,
        exact: bool = True,
    ) -> None:
        self.exact = exact
        self.jacobian = jacobian
        self.shift = shift
        self.reading = reading
        chosen = sample(jacobian, count)
        target = chosen.like[0].new_zeros(chosen.rows)
        self._space = FunctionSpace(chosen, target, shift=shift)

    @classmethod
    def of(cls, found: LinearizedLoss, count: int = COUNT) -> SampledSpace:
        """That of a loss as it was read."""
        return cls(found.jacobian, count, found.shift, found.reading, found.exact)

    @property
    def whole(self) -> bool:
        """Whether its matrix is that of all parameters, and of the loss's own Q."""
        return self.shift is None and self.exact

    def gauss_newton(self) -> LinearOperator:
        """The Gauss-Newton matrix of all rows, P x P."""
        return self.jacobian.T @ self.jacobian

    def at(self, damping: float) -> LinearOperator:
        """The inverse of the sample's matrix plus `damping` times the identity.

        Without damping that may be singular, and rounding of it is put in the damping's place.
        """
        least = torch.finfo(self._space.gram.dtype).eps * float(self._space.gram.trace())
        return self._space.at(damping or least or 1.0).operator()


def sampled_space(
    residuals: Residuals,
    params: Sequence[Tensor],
    gradient: Tensor | None = None,
    count: int = COUNT,
    missed: list[str] | None = None,
) -> SampledSpace | None:
    """The arguments are those of `function_space`; of any number of rows `count` are used."""
    found = linearize(residuals, params, gradient, missed)
    return None if found is None else SampledSpace.of(found, count)


EVEN = 1e-3
"""Share of the draws that goes to all rows alike, so that no row that is drawn is multiplied by
more than the root of 1 / EVEN = 32 times what an even draw would multiply it by."""


def sample(jacobian: FactoredJacobian, count: int) -> FactoredJacobian:
    """`count` rows, drawn independently and scaled; the same ones at each call."""
    weights = jacobian.squared_norms()
    weights = weights + EVEN * weights.mean()
    probability = weights / weights.sum()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(probability.cpu().double(), count, True, generator=generator)
    index, times = torch.unique(drawn.to(probability.device), return_counts=True)
    return jacobian.take(index, (times / (count * probability[index])).sqrt())
