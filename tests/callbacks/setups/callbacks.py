"""Callbacks of the user's own, and of Lightning, that take part in training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import callbacks as lightning
from torch import nn

from tests.callbacks.setups.build import Module, batches, mlp, squared
from tests.callbacks.setups.setup import Setup, Training


class Rate(pl.Callback):
    """Halves the learning rate in mid-training."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] /= 2


class Freeze(pl.Callback):
    """Freezes the first layer in mid-training, and thaws it."""

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        module.net[0].requires_grad_(trainer.global_step not in {2, 3})


class Unfreeze(lightning.BaseFinetuning):
    """Begins with a frozen first layer, which joins later."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=1e-3)


class Jolt(pl.Callback):
    """Moves the weights between steps, at random, and notes their size in the module."""

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.01 * torch.randn_like(p))
        module.log("size", torch.stack([p.norm() for p in module.parameters()]).sum())


class Reinitialize(pl.Callback):
    """Replaces a layer, and the optimizer with it."""

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            module.net[3] = nn.Linear(5, 1)
            trainer.strategy.optimizers = [torch.optim.SGD(module.parameters(), 1e-2)]


class Ema(pl.Callback):
    """Means of the weights over time, with which it validates."""

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.mean = {k: v.clone() for k, v in module.state_dict().items()}

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        for key, value in module.state_dict().items():
            self.mean[key].lerp_(value, 0.1)

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.kept = {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.mean)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        module.load_state_dict(self.kept)


def beside(*callbacks: pl.Callback, **options: Any) -> Training:
    module = Module(mlp(nn.Tanh(), nn.Dropout(0.1)), squared)
    return Training(module, batches(), batches(2), options, list(callbacks))


def pruning() -> pl.Callback:
    return lightning.ModelPruning(
        "l1_unstructured", parameter_names=["weight"], amount=0.3, verbose=0
    )


SETUPS = [
    Setup("rate changed", lambda: beside(Rate()), quick=True),
    Setup("layer frozen in between", lambda: beside(Freeze()), quick=True),
    Setup("layer thawed", lambda: beside(Unfreeze())),
    Setup("weights moved", lambda: beside(Jolt())),
    Setup("layer and optimizer replaced", lambda: beside(Reinitialize())),
    Setup("means of the weights", lambda: beside(Ema())),
    Setup("ema of lightning", lambda: beside(lightning.EMAWeightAveraging(decay=0.9)), nan=None),
    Setup("swa", lambda: beside(
        lightning.StochasticWeightAveraging(1e-2, 1), max_epochs=3, max_steps=-1)),
    Setup("early stopping", lambda: beside(
        lightning.EarlyStopping("validation", min_delta=1e9, patience=1)), quick=True),
    Setup("checkpoints", lambda: beside(
        lightning.ModelCheckpoint(monitor="loss", save_top_k=2, every_n_train_steps=2),
        enable_checkpointing=True)),
    Setup("pruning", lambda: beside(pruning()), nan=None),
    Setup("growing accumulation", lambda: beside(
        lightning.GradientAccumulationScheduler({0: 1, 1: 3}))),
    Setup("rates and times", lambda: beside(
        lightning.LearningRateMonitor("step"), lightning.Timer(duration="00:01:00:00"))),
    Setup("a lambda", lambda: beside(lightning.LambdaCallback(
        on_train_batch_end=lambda trainer, module, *_: module.log("twice", 2.0)))),
]  # fmt: skip
