r"""How much of a loss is rounding of its residuals.

A residual z is computed from parameters each of which enters with a relative error of the order of
:math:`\varepsilon`, so that z errs by some :math:`\varepsilon (\sum_i (\partial z / \partial
\theta_i)^2 \theta_i^2)^{1/2}`: its *conditioning* with respect to relative changes (Higham 2002,
*Accuracy and Stability of Numerical Algorithms*, section 1.6). With n of that size in each of R
residuals, independent of each other, :math:`|t + n|^2 / 2` varies from one point to the next by

.. math:: \sigma = |t|\,|n| / \sqrt R.

The loss itself is rounded to :math:`\varepsilon L`, which is less where residuals are small
differences of large numbers, as they are near the solution of an equation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .function_space import FunctionSpace

DEVIATIONS = 3.0
"""Of sigma that a difference of two losses, whose own is the root of two times that, passes for
rounding: two of its deviations."""

MOST = 0.01
"""Share of the loss that may pass for rounding. Where nearly all of a loss is, as at an exact fit,
any step would otherwise be taken: with this, a hundred steps raise it by a factor of e at most."""


def loss_rounding(space: FunctionSpace) -> float:
    """By how much two equal losses may differ, for rows that came in a lower precision; else zero.

    On Burgers' equation in single precision |n| came out as 1.3e-6 where evaluation in double
    precision showed 0.9e-6.
    """
    if not space.rounded:
        return 0.0
    J = space.jacobian
    total = 0.0
    for factor, param in zip(J.factors, J.like, strict=True):
        if factor is not None:
            mean = param.detach().square().mean()
            total += float(factor.squared_norms().sum()) * float(mean)
    norm = torch.finfo(J.like[0].dtype).eps * math.sqrt(total)
    size = float(torch.linalg.vector_norm(space.target))
    return min(DEVIATIONS * size * norm / math.sqrt(max(J.rows, 1)), MOST * 0.5 * size**2)
