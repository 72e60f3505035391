"""Feed-forward and convolutional networks, with their normalisations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.callbacks.setups.build import IMAGES, Function, X, Y, classifier, mlp, regression
from tests.callbacks.setups.setup import Setup
from tests.helpers import randn


class Residual(nn.Module):
    """A block of a ResNet, which halves the picture where it has more channels than before."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        stride = 1 if inside == outside else 2
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.last = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)])
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.skip(x) + self.norms[1](self.last(inner)))


class UNet(nn.Module):
    """Down, up again, and joined to what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 3, 3, 2, 1)
        self.up, self.head = nn.ConvTranspose2d(3, 3, 2, 2), nn.Conv2d(5, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.silu(self.down(x))
        return self.head(torch.cat([x, self.up(low)], 1))


class Tied(nn.Module):
    """W^T tanh(W x)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) @ self.layer.weight


def resnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, 1, 1), Residual(3, 3), Residual(3, 4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def images(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def dilated() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(2, 4, 2), nn.GLU(1), nn.Conv1d(2, 3, 2, dilation=2), nn.Flatten(), nn.Linear(6, 1)
    )


SETUPS = [
    Setup("mlp", lambda: regression(mlp()), quick=True),
    Setup("linear", lambda: regression(nn.Linear(4, 1))),
    Setup("one sample", lambda: regression(mlp(), X[:1], Y[:1])),
    Setup("convolution and batch norm", lambda: classifier(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                      nn.Linear(48, 3)), IMAGES)),
    Setup("resnet", lambda: classifier(resnet(), IMAGES), quick=True),
    Setup("group norm", lambda: classifier(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 3)),
        IMAGES)),
    Setup("layer norm and dropout", lambda: regression(
        mlp(nn.LayerNorm(5), nn.Dropout(0.5)))),
    Setup("rms norm and gelu", lambda: regression(mlp(nn.RMSNorm(5), nn.GELU()))),
    Setup("cumulative batch norm", lambda: regression(mlp(nn.BatchNorm1d(5, momentum=None)))),
    Setup("depthwise and instance norm", lambda: classifier(
        images(nn.Conv2d(2, 4, 3, groups=2), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 1)), IMAGES)),
    Setup("pooling", lambda: classifier(
        images(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.ELU(), nn.AvgPool2d(2)), IMAGES)),
    Setup("u-net", lambda: regression(UNet(), IMAGES, IMAGES[:, :1].sin())),
    Setup("dilated convolutions", lambda: regression(dilated(), randn(6, 2, 5, seed=2).float())),
    Setup("volumes", lambda: classifier(
        images(nn.Conv3d(1, 2, 2), nn.Softplus()), randn(6, 1, 3, 3, 3, seed=2).float())),
    Setup("channels last", lambda: classifier(
        resnet().to(memory_format=torch.channels_last),
        IMAGES.to(memory_format=torch.channels_last))),
    Setup("autoencoder with tied weights", lambda: regression(Tied(), X, X)),
    Setup("a constant matrix", lambda: regression(Function(lambda h: h @ torch.ones(5, 5)))),
    Setup("double precision", lambda: regression(mlp().double(), X.double(), Y.double())),
]  # fmt: skip
