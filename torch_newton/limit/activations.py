"""Gaussian averages of activations that have closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Angles:
    r"""Pairs of centred Gaussian variables (u, v).

    Angles rather than correlations, because near a correlation of one these keep their digits.

    Attributes:
        left: the variances of u, M x 1.
        right: the variances of v, 1 x M.
        angle: :math:`\varphi \in [0, \pi]` with :math:`\cos\varphi` the correlation, M x M.
    """

    left: Tensor
    right: Tensor
    angle: Tensor

    @property
    def covariance(self) -> Tensor:
        """E[u v], M x M."""
        return (self.left * self.right).sqrt() * self.angle.cos()

    @classmethod
    def of(cls, x: Tensor) -> Angles:
        r"""Of :math:`w \cdot x_m + \eta` at every pair of rows of x, w and eta normal."""
        rows = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        squared = rows.square().sum(1)
        units = rows / squared.sqrt()[:, None]
        distance = _distances(units, units)
        # Kahan's formula: accurate for nearly parallel and nearly opposite vectors alike.
        angle = 2 * torch.atan2(distance, _distances(units, -units))
        return cls(squared[:, None], squared[None, :], angle)


@dataclass(frozen=True)
class Averages:
    """What the kernel of a network needs of its activation, for every pair of variables.

    Attributes:
        values: E[sigma(u) sigma(v)].
        slopes: E[sigma'(u) sigma'(v)].
    """

    values: Tensor
    slopes: Tensor


def erf_averages(pairs: Angles) -> Averages:
    """For the error function (Williams 1997, *Computing with infinite networks*)."""
    left, right = 1 + 2 * pairs.left, 1 + 2 * pairs.right
    cosine = 2 * pairs.covariance / (left * right).sqrt()
    sine = pairs.angle.sin()
    determinant = 1 + 2 * (pairs.left + pairs.right) + 4 * pairs.left * pairs.right * sine**2
    return Averages(
        2 / math.pi * torch.atan2(cosine, (determinant / (left * right)).sqrt()),
        4 / math.pi / determinant.sqrt(),
    )


def relu_averages(pairs: Angles) -> Averages:
    """For the rectifier (Cho and Saul 2009, *Kernel methods for deep learning*)."""
    angle = pairs.angle
    size = (pairs.left * pairs.right).sqrt() / (2 * math.pi)
    return Averages(
        size * (angle.sin() + (math.pi - angle) * angle.cos()), (math.pi - angle) / (2 * math.pi)
    )


CLOSED_FORMS: dict[str, Callable[[Angles], Averages]] = {
    "erf": erf_averages,
    "relu": relu_averages,
}
"""Activations that need no quadrature. One line adds one."""


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Not by matrix products, which lose half of the digits where points nearly coincide.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
