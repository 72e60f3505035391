"""Poisson's and the heat equation on the unit cube, as the K-FAC and ENGD-W repositories set them.

    loss = mean(equation^2) / 2 + mean((u - exact)^2 on the faces and at the start) / 2,

PyTorch's default initialization, uniform points; the error is the *absolute* root mean square over
ten times as many points of the interior (github.com/f-dangel/kfac-pinns-experiments, train.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...networks import mlp
from ..derivatives import At, forward_laplacian
from ..problem import Field, Points, Training, absolute
from ..sampling import at_start, on_faces

MEASURE = "absolute root mean square"
KFAC = "arXiv 2405.15603, authors' traces"
ENGD_W = "arXiv 2505.12149, authors' traces"
WEIGHTS = (0.5, 0.5)


def poisson(
    widths: Sequence[int],
    interior: int,
    boundary: int,
    exact: Field,
    source: Field,
    *,
    test: int,
    drawn_anew: bool = False,
    layer_by_layer: bool = False,
) -> Training:
    """-Laplace u = source in the cube, u = exact on its faces."""
    dimension = widths[0]

    def draw() -> Points:
        return torch.rand(interior, dimension), on_faces(boundary, dimension)

    def residuals(field: Field, inside: Tensor, faces: Tensor) -> tuple[Tensor, ...]:
        if layer_by_layer and isinstance(field, nn.Sequential):
            laplacian = forward_laplacian(field, inside)[1]
        else:
            laplacian = At(field, inside).laplacian()
        return laplacian + source(inside), field(faces) - exact(faces)

    return _training(widths, residuals, draw, exact, torch.rand(test, dimension), drawn_anew)


def heat(
    widths: Sequence[int],
    interior: int,
    conditions: int,
    exact: Field,
    *,
    test: int,
    drawn_anew: bool = False,
) -> Training:
    """u_t = Laplace u / 4 at the points (t, x); half of the conditions' points are at t = 0."""
    dimension = widths[0] - 1

    def draw() -> Points:
        walls = torch.cat([torch.rand(conditions // 2, 1), on_faces(conditions // 2, dimension)], 1)
        start = at_start(torch.rand(conditions // 2, dimension))
        return torch.rand(interior, dimension + 1), torch.cat([walls, start])

    def residuals(field: Field, inside: Tensor, edge: Tensor) -> tuple[Tensor, ...]:
        at = At(field, inside)
        equation = at.d(0) - at.laplacian(*range(1, dimension + 1)) / 4
        return equation, field(edge) - exact(edge)

    return _training(widths, residuals, draw, exact, torch.rand(test, dimension + 1), drawn_anew)


def _training(widths, residuals, draw, exact: Field, test: Tensor, drawn_anew: bool) -> Training:
    net = mlp(widths)
    reference = exact(test)
    return Training(
        net,
        residuals,
        draw(),
        WEIGHTS,
        lambda: absolute(net, test, reference),
        draw if drawn_anew else None,
        exact,
    )
