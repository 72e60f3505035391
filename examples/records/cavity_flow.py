"""The steady flow in a square cavity whose lid slides, by finite differences of second order.

    lap omega = Re (u omega_x + v omega_y),  omega = lap psi,  u = psi_y,  v = -psi_x,

psi = 0 and u = v = 0 at the walls, u = 1 at the lid: Newton's method for psi at the inner nodes of
a grid that is finer towards the walls, x = s - a sin(2 pi s) / (2 pi) for equally spaced s. At the
walls omega follows from a mirrored row of nodes (Thom 1933). In the lid's corners the velocity
jumps and omega is infinite; the refinement keeps the errors from there below those of the rest, so
that Richardson's extrapolation of two grids takes effect.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

REYNOLDS = 100.0
REFINEMENT = 0.9  # chosen: the spacing at the walls is a tenth of the mean; 0.97 is no better
Array = np.ndarray[Any, np.dtype[np.float64]]


def nodes(n: int) -> Array:
    """The n - 1 inner coordinates, in x as in y."""
    s = np.arange(1, n) / n
    return s - REFINEMENT * np.sin(2 * np.pi * s) / (2 * np.pi)


def _differences(n: int) -> tuple[Any, Any, float]:
    """First and second derivative at n + 1 nodes, the second mirrored, and what the lid adds."""
    from scipy import sparse

    def slope(s: Array) -> Array:
        return 1 - REFINEMENT * np.cos(2 * np.pi * s)

    at, between = slope(np.arange(n + 1) / n), slope((np.arange(n) + 0.5) / n)
    first = n / 2 * sparse.diags([-np.ones(n), np.ones(n)], [-1, 1])
    step = n * sparse.diags([-np.ones(n), np.ones(n)], [0, 1], shape=(n, n + 1))
    second = -step.T @ sparse.diags(1 / between) @ step
    mirror = np.ones(n + 1)
    mirror[[0, -1]] = 2
    inverse = sparse.diags(1 / at)
    return inverse @ first, inverse @ sparse.diags(mirror) @ second, 2 * n / between[-1]


def velocity(n: int) -> tuple[Array, Array]:
    """U and v at the inner nodes of n x n cells, (n - 1) x (n - 1), x changing slowest."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    d1, d2, lid = _differences(n)
    one = sparse.identity(n + 1)
    inner = sparse.identity(n + 1).tocsr()[:, 1:-1]
    spread = sparse.kron(inner, inner).tocsr()
    d_x, d_y = (spread.T @ sparse.kron(*pair) for pair in ((d1, one), (one, d1)))
    laplacian = sparse.kron(d2, one) + sparse.kron(one, d2)
    edge = np.zeros((n + 1, n + 1))
    edge[1:-1, n] = lid
    # omega = vorticity psi + edge; each of these maps is applied to it.
    vorticity, edge = (laplacian @ spread).tocsr(), edge.ravel()
    maps = [(m @ vorticity, m @ edge) for m in (spread.T @ laplacian, d_x, d_y)]
    (diffusion, diffusion_0), (along_x, along_x_0), (along_y, along_y_0) = maps
    to_u, to_v = (d_y @ spread).tocsr(), -(d_x @ spread).tocsr()
    psi = np.zeros((n - 1) ** 2)
    step = np.ones(1)
    while np.abs(step).max() > 1e-11:  # of psi, which is 0.1: five steps, the last of rounding
        u, v = to_u @ psi, to_v @ psi
        w_x, w_y = along_x @ psi + along_x_0, along_y @ psi + along_y_0
        residual = diffusion @ psi + diffusion_0 - REYNOLDS * (u * w_x + v * w_y)
        transported = sparse.diags(u) @ along_x + sparse.diags(v) @ along_y
        transporting = sparse.diags(w_x) @ to_u + sparse.diags(w_y) @ to_v
        step = spsolve((diffusion - REYNOLDS * (transported + transporting)).tocsc(), residual)
        psi -= step
    shape = (n - 1, n - 1)
    return (to_u @ psi).reshape(shape), (to_v @ psi).reshape(shape)


@cache
def extrapolated(n: int = 96, shown: int = 16) -> Array:
    """(u, v) at the inner nodes of `shown` x `shown` cells, from n and 2 n.

    For n = 96 and 16 x 16 cells it differs from n = 128 by 2e-5 of its norm, a fifth of the best
    published error; the nodes of 32 x 32 cells come closer to the corners, and differ by 5e-5.
    """

    def on_shown(cells: int) -> Array:
        every = slice(cells // shown - 1, None, cells // shown)
        return np.stack(velocity(cells))[:, every, every]

    return (4 * on_shown(2 * n) - on_shown(n)) / 3
