"""A network and its data, as one writes them for any optimizer."""

from __future__ import annotations

import math

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset


class Regression(pl.LightningModule):
    """A tanh network from R to R; the optimizer comes from the configuration.

    Args:
        width: units of each hidden layer.
        depth: hidden layers.
    """

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        sizes = [1] + [width] * depth
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.Tanh()]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = mse_loss(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", mse_loss(self(x), y), prog_bar=True)


class Waves(pl.LightningDataModule):
    """Points of sin(3 pi x) + sin(7 pi x)/2 on [-1, 1], full-batch.

    Args:
        points: for training; as many between them are for validation.
        repeats: how often an epoch shows the batch, each time for one step.
    """

    def __init__(self, points: int = 128, repeats: int = 10) -> None:
        super().__init__()
        self.points = points
        self.repeats = repeats

    def _data(self, shift: float) -> TensorDataset:
        x = torch.linspace(-1, 1, self.points, dtype=torch.float64)[:, None] + shift / self.points
        y = torch.sin(3 * math.pi * x) + torch.sin(7 * math.pi * x) / 2
        return TensorDataset(x, y)

    def train_dataloader(self) -> DataLoader:
        x, y = self._data(0.0).tensors
        return DataLoader([[x, y]] * self.repeats, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._data(1.0), batch_size=self.points)
