"""How noisy the values of a loss are that rounding has left its mark on."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import torch
from torch import Tensor

SIDE = 3
"""Points on either side of the middle one: seven in all, the least that Moré and Wild found
reliable."""

Places = Generator[Tensor, float, float]
"""Yields where the loss is to be evaluated, and returns a number."""

SPACING = 8.0
"""Units of rounding from point to point, relative to each parameter: enough that all parameters
move and are rounded anew, and so few that the loss is a low polynomial of them."""


def loss_noise(params: Sequence[Tensor], loss: float, epsilon: float) -> Places:
    r"""The standard deviation of the rounding errors in a loss, by the differences of its values.

    At seven equally spaced points on a line the k-th differences :math:`T_{k,i}` of a smooth
    function vanish with the spacing, those of independent errors of deviation :math:`\sigma` have
    the mean square :math:`\binom{2k}{k}\sigma^2` (Hamming 1962; Moré, Wild 2011, *Estimating
    computational noise*). What is left of the smooth part can only add, so that of the orders k
    the least estimate is taken. Costs six evaluations of the loss.

    Args:
        params: P entries in all.
        loss: its value at the parameters.
        epsilon: the unit of rounding of the evaluation.

    Yields:
        A vector of P entries, in answer to which the loss at the parameters plus it must be sent.

    Returns:
        The deviation, and no less than that of rounding the loss itself; NaN where a value is.
    """
    direction = _direction(params).mul_(SPACING * epsilon)
    values = [loss] * (2 * SIDE + 1)
    for i in (*range(-SIDE, 0), *range(1, SIDE + 1)):
        values[SIDE + i] = yield i * direction
    estimate = deviation(values)
    # A value rounded to a spacing of epsilon |L| is off by a number uniform over that width.
    return max(estimate, epsilon * abs(loss) / math.sqrt(12))


def _direction(params: Sequence[Tensor]) -> Tensor:
    """The parameters, P entries, each with a random sign."""
    random = torch.Generator().manual_seed(0)
    pieces = []
    for param in params:
        signs = 2.0 * torch.randint(0, 2, (param.numel(),), generator=random) - 1
        pieces.append(signs.to(param) * param.detach().reshape(-1))
    return torch.cat(pieces)


def deviation(values: Sequence[float]) -> float:
    """The least of the estimates that the differences of orders 1 to n - 2 of n values give."""
    differences = torch.tensor(values, dtype=torch.float64)
    estimates = []
    for k in range(1, len(values) - 1):
        differences = differences.diff()
        estimates.append(math.sqrt(float(differences.square().mean()) / math.comb(2 * k, k)))
    return min(estimates) if all(map(math.isfinite, values)) else math.nan
