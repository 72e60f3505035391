"""What CurvatureMonitor refuses, with the reason."""

import importlib
import math

import pytest
import torch
from torch.utils.data import DataLoader

from tests.callbacks.lightning_helpers import (
    ADAM,
    X,
    Y,
    batches,
    memory_logger,
    monitoring,
    regression,
    trainer,
)
from tests.helpers import mlp


class Manual:
    def __new__(cls, pl):
        class Module(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False
                self.net = mlp(2, 5, 1)

            def loss_of(self, batch):
                return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

            def training_step(self, batch, batch_idx):
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(self.loss_of(batch))
                optimizer.step()

            def configure_optimizers(self):
                return ADAM(self.parameters())

        return Module()


def test_manual_optimization_may_be_given_a_loss(pl):
    own = monitoring(1)
    trainer(pl, 2, own).fit(Manual(pl), batches())
    memory = memory_logger(pl)
    monitor = monitoring(1, loss=lambda module, batch: module.loss_of(batch))
    trainer(pl, 2, monitor, logger=memory).fit(Manual(pl), batches())
    assert sorted(memory.of("hessian/lambda_min")) == [0, 1, 2]
    assert monitor.latest["hessian/lambda_min"] == own.latest["hessian/lambda_min"]


class Endless(DataLoader):
    def __init__(self):
        class Numbers(torch.utils.data.IterableDataset):
            def __iter__(self):
                while True:
                    yield X[0], Y[0]

        super().__init__(Numbers())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"every_n_steps": 0}, "every_n_steps >= 1"),
        ({"every_n_steps": 2.0}, "integer every_n_steps"),
        ({"max_rows": 0}, "max_rows"),
        ({"exact_up_to": -1}, "exact_up_to"),
        ({"max_products": 1}, "max_products"),
        ({"log_key_prefix": None}, "string log_key_prefix"),
        ({"damping": -1.0}, "damping"),
        ({"damping": math.nan}, "damping"),
        ({"damping": "auto"}, "damping"),
        ({"quantities": "fisher"}, "quantities to be some of .* not 'fisher'"),
        ({"quantities": ()}, "quantities to be some of .* not none"),
        ({"logging_interval": "minute"}, "one of step, epoch, not 'minute'"),
        ({"max_overhead": 0.0}, "max_overhead to be a positive share"),
        ({"max_overhead": "10%"}, "max_overhead to be a positive share"),
        ({"figures": 1}, "figures to be True or False"),
        ({"strict": 1}, "strict to be True or False"),
        ({"max_pause": 0}, "max_pause to be a positive number of training steps"),
        ({"max_pause": "long"}, "max_pause to be a positive number"),
        ({"effort": "some"}, "effort to be one of bounded, exact, not 'some'"),
        ({"probe": 3}, "probe to be a batch, a DataLoader or a callable"),
        ({"probe": Endless()}, "DataLoader of known length"),
        ({"loss": 3}, "loss"),
        ({"outputs": "net"}, "outputs"),
    ],
)
def test_wrong_arguments_are_explained(one_pl, arguments, reason):
    exceptions = importlib.import_module("lightning_fabric.utilities.exceptions")
    with pytest.raises(exceptions.MisconfigurationException, match=reason):
        trainer(one_pl, 1, monitoring(**arguments)).fit(regression(one_pl), batches())


def test_a_step_that_draws_its_own_batches_needs_a_loss(one_pl):
    class Module(one_pl.LightningModule):
        def training_step(self, dataloader_iter):
            raise NotImplementedError

        def configure_optimizers(self):
            return None

    exceptions = importlib.import_module("lightning_fabric.utilities.exceptions")
    with pytest.raises(exceptions.MisconfigurationException, match="dataloader_iter"):
        monitoring(strict=True).setup(trainer(one_pl, 1), Module(), "fit")
    with pytest.warns(UserWarning, match="dataloader_iter"):
        monitoring().setup(trainer(one_pl, 1), Module(), "fit")
