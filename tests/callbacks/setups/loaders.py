"""Loaders: several, endless, in other processes, or read by the module itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from tests.callbacks.setups.build import Module, batches, mlp, squared
from tests.callbacks.setups.setup import Setup, Training
from tests.helpers import randn


def dataset() -> TensorDataset:
    return TensorDataset(randn(24, 4, seed=1).float(), randn(24, 1, seed=2).float())


class Endless(IterableDataset):  # type: ignore[type-arg]
    """Draws its samples with Python's random numbers."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            x = torch.tensor([random.gauss(0, 1) for _ in range(4)])
            yield x, x.sum(0, keepdim=True).sin()


class Data(pl.LightningDataModule):
    """A data module that makes new loaders in each epoch."""

    def train_dataloader(self) -> Any:
        return DataLoader(dataset(), 8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(dataset(), 12)


class Reader(Module):
    """Draws its batches itself."""

    def training_step(self, dataloader_iter: Any) -> Any:
        batch, _, _ = next(dataloader_iter)
        return super().training_step(batch)


class Two(Module):
    """A batch from each of two loaders, one of which may have ended."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = [b for b in batch.values() if b is not None]
        loss = torch.stack([squared(self.net, part) for part in parts]).mean()
        self.log("loss", loss)
        return loss


def collate(samples: Any) -> tuple[Tensor, Tensor]:
    """With noise, drawn when the batch is put together."""
    x, y = (torch.stack(part) for part in zip(*samples, strict=True))
    return x + 0.1 * torch.randn(x.shape), y


def trained(data: Any, **options: Any) -> Training:
    return Training(Module(mlp(), squared), data, **options)


def combined(mode: str) -> CombinedLoader:
    parts = {"a": DataLoader(dataset(), 8), "b": DataLoader(dataset(), 12)}
    return CombinedLoader(parts, mode)


SETUPS = [
    Setup("shuffled", lambda: trained(DataLoader(dataset(), 8, shuffle=True)), quick=True),
    Setup("last batch smaller", lambda: trained(DataLoader(dataset(), 7, shuffle=True))),
    Setup("weighted sampler", lambda: trained(
        DataLoader(dataset(), 8, sampler=WeightedRandomSampler(torch.rand(24), 24)))),
    Setup("noise in collate", lambda: trained(DataLoader(dataset(), 8, collate_fn=collate))),
    Setup("endless", lambda: trained(DataLoader(Endless(), 4))),
    Setup("a worker", lambda: trained(
        DataLoader(dataset(), 8, shuffle=True, num_workers=1, collate_fn=collate))),
    Setup("persistent workers", lambda: trained(
        DataLoader(Endless(), 4, num_workers=2, persistent_workers=True),
        options={"limit_train_batches": 3})),
    Setup("two loaders, the longer sets the end", lambda: Training(
        Two(mlp(), squared), combined("max_size"))),
    Setup("two loaders, the shorter again", lambda: Training(
        Two(mlp(), squared), combined("max_size_cycle")), quick=True),
    Setup("two loaders, the shorter sets the end", lambda: Training(
        Two(mlp(), squared), combined("min_size"))),
    Setup("the module reads the loader", lambda: Training(Reader(mlp(), squared), batches()),
          nan=None, unmeasured="training_step draws its batches itself", quick=True),
    Setup("data module", lambda: trained(
        Data(), options={"reload_dataloaders_every_n_epochs": 1})),
    Setup("a list as loader", lambda: trained(
        batches(4), options={"limit_train_batches": 0.5})),
]  # fmt: skip
