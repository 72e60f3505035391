"""Training under CurvatureMonitor is bit for bit what it is without."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchmetrics

from lightning_callbacks.isolation import undisturbed
from tests.callbacks.lightning_helpers import (
    ALL,
    KEYS,
    OPTIMIZERS,
    batches,
    bits,
    memory_logger,
    monitoring,
    regression,
    trainer,
)
from tests.helpers import generator, mlp, randn


class Moody(torch.nn.Module):
    """A network with everything in it that an evaluation could change."""

    def __init__(self):
        super().__init__()
        self.first, self.last = mlp(2, 6), mlp(6, 1)
        self.norm = torch.nn.BatchNorm1d(6, dtype=torch.float64)
        self.drop = torch.nn.Dropout(0.2)
        self.frozen = torch.nn.Parameter(torch.ones((), dtype=torch.float64), False)

    def forward(self, x):
        self.frozen.data.mul_(1.001)
        return self.last(self.drop(torch.tanh(self.norm(self.first(x))))) * self.frozen


def moody(pl, optimizer):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Moody()
            self.error = torchmetrics.MeanSquaredError()
            self.curve = torchmetrics.CatMetric()
            self.seen = []
            self.count = {"calls": 0}
            self.own = generator(3)

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.count["calls"] += 1
            self.seen.append(batch_idx)
            jitter = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
            noise = torch.randn(x.shape, generator=self.own, dtype=x.dtype)
            z = self.net(x + 0.01 * jitter * noise)
            loss = torch.nn.functional.mse_loss(z, y)
            self.error(z, y)
            self.curve.update(loss.detach())
            self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
            self.log_dict({"error": self.error}, on_step=True, on_epoch=True)
            if self.logger is not None:
                self.logger.experiment.add_scalar("direct", loss.item())
            return loss

        def on_train_epoch_end(self):
            self.log("curve", self.curve.compute().mean())

        def configure_optimizers(self):
            return optimizer(self.net.parameters())

    return Module()


class Experiment:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, name, value):
        self.scalars.append((name, value))


def moody_run(pl, optimizer, *callbacks):
    pl.seed_everything(1, verbose=False)
    memory = memory_logger(pl)
    memory.experiment = Experiment()
    module = moody(pl, optimizer)
    x, y = randn(24, 2, seed=8), randn(24, 1, seed=9)
    run = trainer(pl, 9, *callbacks, logger=memory)
    run.fit(module, batches(x, y, size=8, shuffle=True))
    state = {
        "tensors": module.state_dict(),
        "grads": [p.grad for p in module.parameters()],
        "optimizer": run.optimizers[0].state_dict(),
        "seen": module.seen,
        "count": module.count,
        "own": module.own.get_state(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1],  # noqa: NPY002
        "direct": memory.experiment.scalars,
    }
    logged = [
        (step, {key: float(value) for key, value in row.items()})
        for step, row in memory.rows
        if "hessian/lambda_min" not in row
    ]
    return state, logged


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_bit_for_bit_what_it_is_without(pl, name):
    monitor = monitoring(2, quantities=ALL)
    state, logged = moody_run(pl, OPTIMIZERS[name])
    watched, also_logged = moody_run(pl, OPTIMIZERS[name], monitor)
    assert set(monitor.latest) >= KEYS
    assert len(state["direct"]) >= 9
    for key, value in state.items():
        assert bits(watched[key]) == bits(value), key
    assert bits(also_logged) == bits(logged)


def test_every_measurement_draws_the_same_dropout_mask(one_pl):
    memory = memory_logger(one_pl)
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), mlp(2, 5, 1))
    module = regression(one_pl, lambda params: torch.optim.SGD(params, lr=0.0), net)
    trainer(one_pl, 3, monitoring(1), logger=memory).fit(module, batches())
    values = memory.of("hessian/lambda_max")
    assert len(values) == 4
    assert len(set(values.values())) == 1


def test_all_is_restored_where_the_evaluation_fails():
    module, untouched = mlp(2, 5, 1), mlp(2, 5, 1)
    trainer = SimpleNamespace(loggers=[memory := object()])
    torch.rand(3), random.random()
    before = bits([torch.get_rng_state(), random.getstate(), np.random.get_state()[1]])  # noqa: NPY002

    def disturb():
        with undisturbed(trainer, module, 0):
            assert trainer.loggers != [memory]
            torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
            module[0].weight.data.add_(1)
            module[0].weight.grad = torch.ones_like(module[0].weight)
            module.eval()
            module[2].requires_grad_(False)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        disturb()
    after = bits([torch.get_rng_state(), random.getstate(), np.random.get_state()[1]])  # noqa: NPY002
    assert after == before
    assert trainer.loggers == [memory]
    assert bits(module.state_dict()) == bits(untouched.state_dict())
    assert module[0].weight.grad is None
    assert module.training
    assert module[2].training
    assert all(param.requires_grad for param in module.parameters())
