"""`StopWhenConverged` in both namespaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_callbacks import StopWhenConverged
from torch_newton import RegNewton


def fitted(pl, callback, optimizer=RegNewton, steps=80):
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 1), nn.Tanh()).double()

        def training_step(self, batch, _):
            inputs, targets = batch
            return nn.functional.mse_loss(self.net(inputs), targets)

        def configure_optimizers(self):
            return optimizer(self.parameters())

    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[callback],
    )
    trainer.fit(Module(), DataLoader(TensorDataset(x, torch.sin(3 * x)), batch_size=24))
    return trainer


@pytest.mark.parametrize("patience", [1, 4])
def test_training_ends_at_rest(pl, patience):
    callback = StopWhenConverged(patience)
    trainer = fitted(pl, callback)
    (optimizer,) = trainer.optimizers
    assert optimizer.last_step.converged
    assert trainer.global_step == callback.stopped_step < 80
    other = StopWhenConverged(patience)
    other.load_state_dict(callback.state_dict())
    assert other.state_dict() == {"count": patience, "stopped_step": trainer.global_step}


def test_other_optimizers_are_left_alone(pl):
    callback = StopWhenConverged()
    trainer = fitted(pl, callback, torch.optim.Adam, steps=5)
    assert trainer.global_step == 5
    assert callback.stopped_step is None


def test_it_needs_patience():
    with pytest.raises(ValueError, match="at least 1"):
        StopWhenConverged(0)
