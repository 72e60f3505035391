"""Data, networks and modules from which set-ups are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.callbacks.setups.setup import Training
from tests.helpers import generator, randn

X, Y, IMAGES, SERIES = (
    randn(*shape, seed=3).float() for shape in ((6, 4), (6, 1), (6, 2, 6, 6), (6, 5, 2))
)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
WORDS = torch.randint(0, 7, (6, 5), generator=generator(4))

Loss = Callable[[Any, Any], Any]


class Module(pl.LightningModule):
    """Trains a network on a loss of (network, batch), logs it, and counts its steps."""

    def __init__(
        self, net: Any, loss: Loss, optimizer: Callable[..., Any] = torch.optim.Adam
    ) -> None:
        super().__init__()
        self.net, self.loss, self.optimizer, self.calls = net, loss, optimizer, 0

    def training_step(self, batch: Any) -> Any:
        self.calls += 1
        loss = self.loss(self.net, batch)
        self.log("loss", loss, batch_size=6)
        return loss

    def validation_step(self, batch: Any) -> None:
        self.log("validation", self.loss(self.net, batch), batch_size=6)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), 1e-2)


def squared(net: Any, batch: Any) -> Tensor:
    return F.mse_loss(net(batch[0]), batch[1])


def entropy(net: Any, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def train(net: Any, loss: Loss, batch: Any = (X, Y), **options: Any) -> Training:
    """One batch again and again, by a `Module`."""
    return Training(Module(net, loss, **options), [batch])


def regression(net: Any, x: Tensor = X, y: Tensor = Y, **options: Any) -> Training:
    return train(net, squared, (x, y), **options)


def classifier(net: Any, x: Tensor = X, y: Tensor = LABELS, **options: Any) -> Training:
    return train(net, entropy, (x, y), **options)


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), *(between or (nn.Tanh(),)), nn.Linear(5, 1))


def batches(number: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Different ones of a regression, for an epoch."""
    return [(randn(6, 4, seed=i).float(), randn(6, 1, seed=10 + i).float()) for i in range(number)]


class Function(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor], inner: int = 4) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(inner, 5), nn.Linear(5, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))
