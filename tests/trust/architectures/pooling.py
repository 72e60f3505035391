"""Pooling, upsampling and other ways to change the resolution."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers import randn
from tests.trust.architectures.build import Lambda, fit, stack
from tests.trust.architectures.case import Case, Problem


def image(*layers: nn.Module) -> Problem:
    return stack(nn.Conv2d(1, 4, 2), nn.Tanh(), *layers, shape=(6, 1, 6, 6))


class Spatial(nn.Module):
    """A spatial transformer: an affine map of the image, found by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Linear(25, 6)
        self.head = nn.Linear(25, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        theta = torch.eye(2, 3).to(x) + 0.3 * self.locate(x.flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False).flatten(1))


class Attention(nn.Module):
    """A weighted mean over positions, with learned weights."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.value = nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.score(x).softmax(1) * self.value(x)).sum(1)


def unpooled() -> nn.Module:
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    return Lambda(lambda x: unpool(*pool(x)))


CASES = [
    Case("MaxPool1d", lambda: stack(nn.Conv1d(2, 3, 2), nn.MaxPool1d(2), shape=(6, 2, 7))),
    Case("MaxPool2d", lambda: image(nn.MaxPool2d(2)), quick=True),
    Case("MaxPool2d overlapping", lambda: image(nn.MaxPool2d(3, stride=1))),
    Case("MaxPool3d", lambda: stack(nn.Conv3d(1, 2, 2), nn.MaxPool3d(2), shape=(4, 1, 5, 5, 5))),
    Case("AvgPool1d", lambda: stack(nn.Conv1d(2, 3, 2), nn.AvgPool1d(2), shape=(6, 2, 7))),
    Case("AvgPool2d", lambda: image(nn.AvgPool2d(2))),
    Case("AdaptiveAvgPool2d", lambda: image(nn.AdaptiveAvgPool2d(2))),
    Case("AdaptiveAvgPool2d to 1", lambda: image(nn.AdaptiveAvgPool2d(1))),
    Case("AdaptiveMaxPool2d", lambda: image(nn.AdaptiveMaxPool2d(2))),
    Case("LPPool2d", lambda: image(nn.Softplus(), nn.LPPool2d(2.0, 2))),
    Case("mean over positions", lambda: image(Lambda(lambda x: x.mean((2, 3))))),
    Case("largest over positions", lambda: image(Lambda(lambda x: x.amax((2, 3))))),
    Case("logsumexp over positions", lambda: image(Lambda(lambda x: x.logsumexp((2, 3))))),
    Case("MaxUnpool2d", lambda: image(Lambda(lambda x: x[..., :4, :4]), unpooled())),
    Case("PixelShuffle", lambda: image(nn.PixelShuffle(2))),
    Case("PixelUnshuffle", lambda: image(Lambda(lambda x: x[..., :4, :4]), nn.PixelUnshuffle(2))),
    *(
        Case(
            f"upsampled, {mode}",
            lambda mode=mode: image(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode=mode)),
        )
        for mode in ("nearest", "bilinear", "bicubic")
    ),
    Case("spatial transformer", lambda: fit(Spatial(), randn(6, 1, 5, 5, seed=2))),
    Case("attention pooling", lambda: fit(Attention(), randn(6, 5, 3, seed=2))),
]
