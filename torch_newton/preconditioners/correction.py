r"""The second-order correction of a Gauss-Newton step, smoothed where residuals are rounded.

For a step d that left :math:`e = t(\theta + d) - t - \hat J d` the correction is
:math:`c = -(\hat J^T \hat J + \mu I)^{-1} \hat J^T e`, with :math:`\mu = \lambda`. But e is the
difference of numbers that are rounded, and where lambda is far below their precision the rounding,
divided by small singular values, makes c long without making it better: long enough for the
product of c and d in the second order to undo the gain.

Measured late on Burgers' equation in single precision, where the residuals were rounded to 8 % of
their norm: with mu = lambda a corrected step raised the loss by 27 %, with 1e4 lambda it lowered it
by 5.5 %, as the step of double precision did with 5.7 %.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .damped_inverse import DampedInverse
from .low_rank import LowRankInverse
from .weighted_inverse import WeightedInverse

SMOOTHER = (1e4, 1e2)
"""The values of mu in units of lambda that are tried before lambda itself, each a further factor.
Chosen: the length of what rounding leaves falls by the root of mu, 100 and 10 times, and 1e6 lambda
was hardly ever smooth enough to be taken and good enough to be accepted."""

GIVEN_UP = 0.1
"""Share of the reduction predicted for a step up to which its smoother correction may leave more of
the residuals: less than the spread of the ratio between one step and the next."""


LONGEST = 0.75
"""Of a correction, in lengths of the step: beyond, the series does not converge (Transtrum and
Sethna 2012, *Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares
minimization*, whose geodesic acceleration takes the second derivative at the starting point)."""


def second_order_correction(
    inverse: DampedInverse | WeightedInverse | LowRankInverse, d: Tensor, target: Tensor
) -> Tensor | None:
    """The correction c of a step, P entries; None where it is longer than `LONGEST`.

    Args:
        inverse: of the step, with its lambda.
        d: the step in the variables of the inverse, P entries.
        target: t at the point plus d, R entries.
    """
    image = inverse.space.jacobian.matvec(d)
    c = smoothed_correction(inverse, target - inverse.space.target - image, image)
    norm = torch.linalg.vector_norm
    return c if bool(norm(c) <= LONGEST * norm(d)) else None


def smoothed_correction(
    inverse: DampedInverse | WeightedInverse | LowRankInverse, remainder: Tensor, image: Tensor
) -> Tensor:
    r"""The correction c of a step d, P entries, however long.

    Where the rows have the precision of the system, mu is lambda. Where they come in a lower one,
    it is the largest multiple for which the model of the corrected step,
    :math:`|t + \hat J d + e + \hat J c|^2 / 2`, is as low as with lambda but for a tenth of what d
    was predicted to gain: of regularizations that explain the data equally well the strongest
    (the discrepancy principle; Morozov 1966, *On the solution of functional equations by the method
    of regularization*).

    Args:
        inverse: of the step, with its lambda.
        remainder: e, R entries.
        image: J d, R entries.
    """
    c = inverse.correction(remainder)
    if isinstance(inverse, LowRankInverse) or not inverse.space.rounded:
        return c
    space = inverse.space
    left = space.target + image
    gain = _half_square(space.target) - _half_square(left)
    left = left + remainder
    allowed = _half_square(left + space.jacobian.matvec(c)) + GIVEN_UP * max(gain, 0.0)
    for factor in SMOOTHER:
        smooth = space.at(factor * inverse.damping).correction(remainder)
        if _half_square(left + space.jacobian.matvec(smooth)) <= allowed:
            return smooth
    return c


def _half_square(vector: Tensor) -> float:
    return 0.5 * float(torch.linalg.vector_norm(vector)) ** 2
