"""Ordinary networks of many kinds, with random data of the usual shapes, for timing the monitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

Batch = tuple[Tensor, Tensor]
Model = tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], Batch]
"""A network, its loss, and a batch."""


class Module(pl.LightningModule):
    """An ordinary module that trains a network by Adam."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: Any) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def train(module: Module, loader: Any, steps: int, *callbacks: pl.Callback) -> None:
    """Train for so many steps, with nothing in the trainer but the callbacks."""
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, loader)


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)])
        self.skip = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(y)) + self.skip(x))


def images(batch: int, channels: int, size: int) -> Batch:
    return torch.randn(batch, channels, size, size), torch.randint(0, 10, (batch,))


def resnet(widths: tuple[int, ...], blocks: int, batch: int) -> Model:
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1), nn.ReLU()]
    before = widths[0]
    for width in widths:
        for i in range(blocks):
            layers.append(Block(before, width, 2 if i == 0 and width != widths[0] else 1))
            before = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    return nn.Sequential(*layers), functional.cross_entropy, images(batch, 3, 32)


def cnn() -> Model:
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    return net, functional.cross_entropy, images(64, 1, 28)


def mlp() -> Model:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 700), nn.ReLU(), nn.Linear(700, 600), nn.ReLU(),
        nn.Linear(600, 10),
    )  # fmt: skip
    return net, functional.cross_entropy, images(64, 1, 28)


def autoencoder() -> Model:
    x = torch.rand(64, 784)
    net = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 784))
    return net, functional.mse_loss, (x, x)


class Transformer(nn.Module):
    """A language model of encoder layers."""

    def __init__(self, words: int, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        out: Tensor = self.head(self.layers(self.words(x) + self.places, mask, is_causal=True))
        return out.flatten(0, 1)


def transformer(words: int, width: int, layers: int, length: int, batch: int) -> Model:
    text = torch.randint(0, words, (batch, length + 1))
    net = Transformer(words, width, layers, length)
    return net, functional.cross_entropy, (text[:, :-1], text[:, 1:].flatten())


class Recurrent(nn.Module):
    """An LSTM of which the last state is read."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(16, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cells(x)[0][:, -1])
        return out


def lstm() -> Model:
    batch = torch.randn(64, 20, 16), torch.randint(0, 10, (64,))
    return Recurrent(), functional.cross_entropy, batch


MODELS: dict[str, Callable[[], Model]] = {
    "resnet-175k": lambda: resnet((16, 32, 64), 2, 64),
    "cnn": cnn,
    "mlp-1m": mlp,
    "autoencoder": autoencoder,
    "transformer": lambda: transformer(64, 16, 3, 32, 64),
    "lstm": lstm,
    "resnet-18": lambda: resnet((64, 128, 256, 512), 2, 32),
    "gpt-10m": lambda: transformer(256, 384, 6, 64, 8),
}
"""Networks by name; the last two have 11 million parameters."""

LARGE = ("resnet-18", "gpt-10m")


def made(name: str) -> tuple[Module, DataLoader[Any]]:
    """The module, and a loader of one batch."""
    torch.manual_seed(0)
    net, loss, batch = MODELS[name]()
    return Module(net, loss), DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
