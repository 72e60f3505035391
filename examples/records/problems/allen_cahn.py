"""The Allen-Cahn equation, periodic by construction, its start held by construction.

The initial value's slope jumps at x = +-1, where the periodic ends meet, so that its samples would
put errors of the order of points^-2 into the Fourier modes. The reference solution starts from the
integrals instead, and converges like that of a smooth start.

Published: from a transcription of the tables of the SSBroyden papers; the source counts eight
parameters more than these layers have.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ...networks import glorot
from .. import spectral
from ..derivatives import At
from ..networks import Constrained, Periodic
from ..problem import Field, Problem, Published, Training, relative
from ..sampling import grid, in_box

DIFFUSION = 1e-4
ROWS = 15_000
SNAPSHOTS, PLACES = 50, 256
SOURCE = "arXiv 2405.04230 and others, transcribed"


def start_modes(points: int) -> Tensor:
    """Coefficients of x^2 cos(pi x) on [-1, 1], as `rfft` counts them for points from x = -1.

    With m_j = int x^2 cos(j pi x) dx = 4 (-1)^j / (j pi)^2, and 2/3 for j = 0, the cosine of
    frequency k pi has the coefficient (m_{k+1} + m_{k-1}) / 2.
    """
    k = torch.arange(points // 2 + 1)

    def moment(j: Tensor) -> Tensor:
        nonzero = j.where(j != 0, 1).double()
        return torch.where(j == 0, 2 / 3, 4 * (1 - 2 * (j % 2)) / (torch.pi * nonzero) ** 2)

    amplitude = (moment(k + 1) + moment((k - 1).abs())) / 2
    return (1 - 2 * (k % 2)) * amplitude * points / 2


@cache
def reference(points: int = 2048, steps: int = 20) -> Tensor:
    """U on a grid of (t, x), 51 x 256, t in [0, 1], x from -1, by Fourier modes and ETDRK4."""
    x = -1 + 2 * torch.arange(PLACES, dtype=torch.float64) / PLACES
    k = spectral.wavenumbers(points, 2.0)

    def reaction(v: Tensor) -> Tensor:
        u = torch.fft.irfft(v, points)
        return torch.fft.rfft(5 * (u - u**3))

    start = torch.fft.irfft(start_modes(points).to(torch.complex128), points)
    u = spectral.solve(start, -DIFFUSION * k**2, reaction, 1.0, SNAPSHOTS, steps)
    u = u[:, :: points // PLACES]
    u[0] = initial(x)
    return u


def initial(x: Tensor) -> Tensor:
    return x**2 * torch.cos(torch.pi * x)


def residuals(field: Field, tx: Tensor) -> tuple[Tensor, ...]:
    at = At(field, tx)
    return (at.d(0) - DIFFUSION * at.d(1, 1) - 5 * (at.u - at.u**3),)


def build(seed: int) -> Training:
    net = Constrained(
        Periodic(glorot((3, 30, 30, 30, 1)), torch.pi),
        lambda tx: initial(tx[:, 1:2]),
        lambda tx: tx[:, 0:1],
    )
    points = in_box(ROWS, (0.0, -1.0), (1.0, 1.0))
    test = grid(torch.linspace(0, 1, SNAPSHOTS + 1), torch.linspace(-1, 1, PLACES + 1)[:-1])
    u = reference().reshape(-1, 1)
    return Training(net, residuals, (points,), (1.0,), lambda: relative(net, test, u))


PROBLEMS = (
    Problem(
        "allen-cahn",
        "u_t = 1e-4 u_xx + 5 (u - u^3), x in [-1, 1] periodic, t in [0, 1], "
        "u(0, x) = x^2 cos(pi x)",
        build,
        rows=ROWS,
        parameters=2011,
        measure="relative L2",
        published=(
            Published(9.4e-7, "SSBroyden", SOURCE, parameters=2019),
            Published(3.5e-6, "SOAP, PirateNet", SOURCE),
            Published(4.7e-4, "SSBroyden, float32", SOURCE, parameters=2019),
        ),
    ),
)
