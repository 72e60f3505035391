r"""Gaussian averages :math:`E[\sigma(u)\,\sigma(v)]` of any function, by quadrature.

Two ways, with M x M pairs (u, v) at once:

- `hermite_series` expands sigma in Hermite polynomials of the standardised variable, after which
  a pair with correlation rho averages to :math:`\sum_k \rho^k a_k(u)\,a_k(v)` (Mehler 1866). It
  converges geometrically for an analytic function, and costs a few M x M products a term.
- `polar` integrates over the plane in polar coordinates, whose four sectors end where u or v is
  zero: a kink or jump of sigma at zero, as ReLU's, is then met by no interval of integration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .activations import Angles

Function = Callable[[Tensor], Tensor]

TERMS = 2400
"""Hermite polynomials computed; as many are used as the tolerance asks for."""


def average(function: Function, pairs: Angles, tol: float = 1e-12) -> Tensor:
    """E[function(u) function(v)], M x M, by the Hermite series if it converges, else in polars.

    Args:
        function: elementwise, on float64. With a kink or jump elsewhere than at zero neither
            way reaches `tol`, but the digits that steps of the integration give.
        pairs: of the variables (u, v), over one set of M points.
        tol: error allowed, relative to the largest entry.
    """
    series = hermite_series(function, pairs, tol)
    return polar(function, pairs) if series is None else series


def hermite_series(function: Function, pairs: Angles, tol: float = 1e-12) -> Tensor | None:
    """The average as a series in the correlation; None where it takes too many terms.

    The terms left out are the largest at correlation one, where all of them add up to
    E[function(u)^2], which is known: what is missing there bounds the error everywhere.
    """
    nodes, polynomials = (table.to(pairs.angle.device) for table in _weighted_hermite())
    values = function(pairs.right.sqrt() * nodes[:, None])  # nodes x M
    coefficients = polynomials @ values  # terms x M
    squares = polynomials[0] @ values.square()
    missing = (squares - coefficients.square().cumsum(0)).amax(1)
    enough = (missing <= tol * squares.max()).nonzero()
    if len(enough) == 0:
        return None
    coefficients = coefficients[: int(enough[0]) + 1]
    # Horner's rule in the correlation, for blocks of rows that stay in the cache.
    blocks = []
    for rows in torch.split(torch.arange(len(pairs.angle)), 64):
        correlation = pairs.angle[rows].cos()
        total = torch.zeros_like(correlation)
        for a in coefficients.flip(0):
            total = total.mul_(correlation).addr_(a[rows], a)
        blocks.append(total)
    return torch.cat(blocks)


def polar(function: Function, pairs: Angles, arcs: int = 64, radii: int = 96) -> Tensor:
    r"""The average over the plane, :math:`u = \sqrt{q} r \cos t, v = \sqrt{q'} r \cos(t-\varphi)`.

    Args:
        function: elementwise, on float64; smooth but for a kink or jump at zero.
        pairs: of the variables (u, v).
        arcs: Gauss-Legendre nodes on each of the four sectors.
        radii: Gauss-Legendre nodes on the radius, up to where the density is 1e-30.
    """
    t, t_weights = (table.to(pairs.angle.device) for table in _legendre(arcs))
    r, r_weights = (table.to(pairs.angle.device) for table in _legendre(radii))
    radius = 12.0 * r
    density = 12.0 * r_weights * radius * torch.exp(-(radius**2) / 2) / (2 * math.pi)
    rows, columns = torch.triu_indices(*pairs.angle.shape)  # the average is symmetric
    angles = pairs.angle[rows, columns]
    u_scale, v_scale = pairs.left[rows, 0].sqrt(), pairs.right[0, columns].sqrt()
    results = []
    for some in torch.split(torch.arange(len(angles)), max(1, 2**20 // (4 * arcs * radii))):
        angle = angles[some]
        # The sectors start where u or v is zero: at -pi/2, angle - pi/2, pi/2, angle + pi/2.
        lengths = torch.stack([angle, math.pi - angle] * 2, dim=1)
        starts = lengths.cumsum(1) - lengths - math.pi / 2
        theta = starts[:, :, None] + lengths[:, :, None] * t
        weights = lengths[:, :, None] * t_weights
        u = (u_scale[some, None, None] * theta.cos())[..., None] * radius
        v = (v_scale[some, None, None] * (theta - angle[:, None, None]).cos())[..., None] * radius
        results.append((((function(u) * function(v)) @ density) * weights).sum((1, 2)))
    total = torch.zeros_like(pairs.angle)
    total[rows, columns] = total[columns, rows] = torch.cat(results)
    return total


@cache
def _weighted_hermite() -> tuple[Tensor, Tensor]:
    """Nodes on a line, and the normalised Hermite polynomials there times the weights.

    The trapezoidal rule, which converges faster than any power for an analytic integrand that
    the normal density cuts off.
    """
    step = 0.01
    nodes = torch.arange(-13.0, 13.0 + step / 2, step, dtype=torch.float64)
    weights = step * torch.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    rows = [weights, nodes * weights]
    for k in range(1, TERMS - 1):
        rows.append((nodes * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return nodes, torch.stack(rows)


@cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1] (Golub and Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2
