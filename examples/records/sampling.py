"""Points: uniform in a box, on its faces, and where residuals are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def in_box(n: int, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """N uniform points of the box, n x d."""
    lowest, highest = torch.tensor(low), torch.tensor(high)
    return lowest + (highest - lowest) * torch.rand(n, len(low))


def on_faces(n: int, dimension: int) -> Tensor:
    """N points of the unit cube's boundary, n x d, each on a face drawn uniformly."""
    points = torch.rand(n, dimension)
    axis = torch.randint(dimension, (n,))
    points[torch.arange(n), axis] = torch.randint(2, (n,)).to(points)
    return points


def at_start(x: Tensor) -> Tensor:
    """The points (0, x)."""
    return torch.cat([torch.zeros(len(x), 1), x], dim=1)


def grid(times: Tensor, places: Tensor) -> Tensor:
    """All (t, x), times changing slowest, n x 2."""
    return torch.cartesian_prod(times, places)


def by_residual(n: int, candidates: Tensor, residual: Callable[[Tensor], Tensor]) -> Tensor:
    """N of the candidates, drawn without repetition in proportion to |r| / mean |r| + 1.

    The distribution of Wu et al. 2023 (arXiv 2207.10289), with their defaults k = c = 1.
    """
    size = residual(candidates).detach().abs().reshape(-1)
    return candidates[torch.multinomial(size / size.mean() + 1, n)]
