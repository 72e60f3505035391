"""Training in two processes."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.callbacks.setups.build import Module, mlp, squared
from tests.callbacks.setups.setup import Setup, Training
from tests.helpers import randn


class Together(Module):
    """Logs means over the processes, and counts of its own."""

    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        self.log("mean", loss, sync_dist=True, on_step=True, on_epoch=True)
        return loss


class Slow(torch.autograd.Function):
    """The identity, whose derivative takes long in the second process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        time.sleep(0.1 * torch.distributed.get_rank())
        return grad.clone()


class Identity(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class State(pl.Callback):
    """Brings what only the first process knows back, as metrics."""

    def on_train_end(self, trainer: Any, module: Any) -> None:
        numbers = {"calls": float(module.calls), "random": float(torch.rand(()))}
        slopes = [float(p.grad.sum()) for p in module.parameters()]
        numbers |= {f"gradient {i}": slope for i, slope in enumerate(slopes)}
        moments = trainer.optimizers[0].state_dict()["state"].values()
        numbers |= {f"moment {i}": float(m["exp_avg"].sum()) for i, m in enumerate(moments)}
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in numbers.items()})


def together(*between: nn.Module, **options: Any) -> Training:
    data = TensorDataset(randn(24, 4, seed=1).float(), randn(24, 1, seed=2).float())
    # Processes that wait for each other in vain end after this time with an exception.
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    options = {"strategy": strategy, "devices": 2, **options}
    module = Together(mlp(*between), squared)
    return Training(module, DataLoader(data, 4), options=options, callbacks=[State()])


SETUPS = [
    Setup("two processes", lambda: together(nn.Tanh())),
    Setup("two processes, accumulated", lambda: together(
        nn.Dropout(0.1), accumulate_grad_batches=2)),
    Setup("two processes, batch norm", lambda: together(
        nn.BatchNorm1d(5), sync_batchnorm=False)),
    Setup("two processes, one slower", lambda: together(Identity(Slow.apply))),
]  # fmt: skip
