"""Reference solutions of periodic evolution equations: Fourier in space, ETDRK4 in time.

    u_t = L u + N(u),

L diagonal in Fourier space and treated exactly, N by the fourth-order Runge-Kutta scheme of Cox and
Matthews with the contour integrals of Kassam and Trefethen (SIAM J. Sci. Comput. 26 (2005), 1214).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CONTOUR_POINTS = 32  # Kassam and Trefethen's; the integrals then hold to rounding


def wavenumbers(points: int, length: float) -> Tensor:
    """2 pi j / length, j = 0 .. points / 2, those of `torch.fft.rfft`."""
    return 2 * torch.pi * torch.arange(points // 2 + 1, dtype=torch.float64) / length


def _coefficients(linear: Tensor, h: float) -> tuple[Tensor, ...]:
    """exp(hL), exp(hL/2) and the scheme's four weights, as means over a circle about hL."""
    angles = torch.pi * (torch.arange(CONTOUR_POINTS, dtype=torch.float64) + 0.5) * 2
    circle = torch.exp(1j * angles / CONTOUR_POINTS)
    z = h * linear[:, None] + circle
    e = torch.exp(z)

    def mean(values: Tensor) -> Tensor:
        return h * values.mean(1)

    return (
        torch.exp(h * linear),
        torch.exp(h * linear / 2),
        mean((torch.exp(z / 2) - 1) / z),
        mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3),
        mean((2 + z + e * (z - 2)) / z**3),
        mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3),
    )


def solve(
    initial: Tensor,
    linear: Tensor,
    nonlinear: Callable[[Tensor], Tensor],
    end: float,
    snapshots: int,
    steps: int,
) -> Tensor:
    """U at the times end j / snapshots, j = 0 .. snapshots, (snapshots + 1) x points.

    Args:
        initial: u(0) at equally spaced points, a power of two of them.
        linear: L at each of `wavenumbers`, complex or real.
        nonlinear: N from the coefficients of u to those of N(u).
        end: the last time.
        snapshots: how many intervals the result has.
        steps: time steps in each of them.
    """
    h = end / (snapshots * steps)
    full, half, q, f1, f2, f3 = _coefficients(linear.to(torch.complex128), h)
    v = torch.fft.rfft(initial.double())
    result = [initial.double()]
    for _ in range(snapshots):
        for _ in range(steps):
            n_v = nonlinear(v)
            a = half * v + q * n_v
            n_a = nonlinear(a)
            b = half * v + q * n_a
            n_b = nonlinear(b)
            c = half * a + q * (2 * n_b - n_v)
            v = full * v + f1 * n_v + 2 * f2 * (n_a + n_b) + f3 * nonlinear(c)
        result.append(torch.fft.irfft(v, len(initial)))
    return torch.stack(result)


def transport(k: Tensor, coefficient: float, points: int) -> Callable[[Tensor], Tensor]:
    """N(u) = -coefficient u u_x = -coefficient (u^2)_x / 2, the highest third of modes cut off.

    The cut keeps products from coming back as lower modes (Orszag's two-thirds rule).
    """
    kept = torch.arange(len(k)) <= points // 3
    factor = -0.5j * coefficient * k * kept

    def nonlinear(v: Tensor) -> Tensor:
        return factor * torch.fft.rfft(torch.fft.irfft(v, points).square())

    return nonlinear
