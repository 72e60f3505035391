"""Networks one layer of which uses its weight in an unusual way."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import Problem, problem_of, randn

Use = Callable[[Tensor, Tensor], Tensor]


class Cubed(torch.autograd.Function):
    """x (w + w^3)^T: twice differentiable, and unknown to every reader."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x @ (w + w**3).T

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return cotangent @ (w + w**3), (cotangent.mT @ x) * (1 + 3 * w**2)


def custom(x: Tensor, w: Tensor) -> Tensor:
    return Cubed.apply(x, w)


def opaque(use: Use) -> Use:
    """The same as one operation that no reader knows, twice differentiable."""

    class Opaque(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor, w: Tensor) -> Tensor:
            return use(x, w)

        @staticmethod
        def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, cotangent: Tensor) -> tuple[Tensor, Tensor]:
            return torch.func.vjp(use, *ctx.saved_tensors)[1](cotangent)

    return lambda x, w: Opaque.apply(x, w)


@opaque
def normalised(x: Tensor, w: Tensor) -> Tensor:
    return x @ F.normalize(w, dim=1).T


@opaque
def slices(x: Tensor, w: Tensor) -> Tensor:
    half = len(w) // 2
    return torch.cat([x @ w[:half].T, x @ w[half:].T], 1)


@opaque
def bilinear(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("ni,oij,nj->no", x[:, :3], w.reshape(12, 3, 4), x[:, :4])


def distances(x: Tensor, w: Tensor) -> Tensor:
    """Differentiable once only."""
    return torch.cdist(x, w, compute_mode="donot_use_mm_for_euclid_dist")


TWICE: dict[Use, str] = {
    custom: "CubedBackward",
    normalised: "OpaqueBackward",
    slices: "OpaqueBackward",
    bilinear: "OpaqueBackward",
}
"""With the node that is in the way."""

UNREADABLE: dict[Use, str] = {**TWICE, distances: "CdistBackward0"}


class Net(nn.Module):
    """Three layers of width 12, the middle one computed by `use`; `weight` is parameter 0."""

    def __init__(self, use: Use, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(2, 12), nn.Linear(12, 1)
        self.weight = nn.Parameter(torch.randn(12, 12) / 12**0.5)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.tanh(self.use(torch.tanh(self.first(x)), self.weight)))
        return result


def fit(use: Use, rows: int, seed: int = 0) -> Problem:
    """A mean squared error of `rows` samples."""
    x = randn(rows, 2, seed=seed + 1)
    y = torch.sin(3 * x[:, :1]) * x[:, 1:]
    return problem_of(Net(use, seed), x, lambda z: F.mse_loss(z, y))
