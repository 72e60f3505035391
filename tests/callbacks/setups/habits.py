"""What people do in and around a training step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.callbacks.setups.build import (
    IMAGES,
    LABELS,
    WORDS,
    Module,
    X,
    Y,
    batches,
    entropy,
    mlp,
    regression,
    squared,
    train,
)  # fmt: skip
from tests.callbacks.setups.setup import Setup, Training
from tests.helpers import generator, randn


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As of Hugging Face: a dictionary with attributes, and indexed like a tuple, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else list(self.values())[key]


class Tagger(nn.Module):
    """Takes the tokenizer's names as arguments, and computes its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> ModelOutput:
        hidden = self.words(input_ids) * attention_mask[..., None]
        logits = self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True))
        return ModelOutput(loss=F.cross_entropy(logits, labels), logits=logits, hidden=(hidden,))


class OwnLoss(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = self.net(**batch)
        self.log_dict({"loss": output.loss, "mean": output[1].mean()}, batch_size=6)
        return output.loss


class WholeOutput(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(**batch)


TOKENS = {
    "input_ids": WORDS,
    "attention_mask": (torch.arange(5) < torch.tensor([5, 4, 3, 5, 2, 1])[:, None]).float(),
    "labels": LABELS,
}


class Slots:
    """A batch without a dictionary of attributes."""

    __slots__ = ("x", "y")

    def __init__(self) -> None:
        self.x, self.y = X, Y


class Endless(IterableDataset):  # type: ignore[type-arg]
    """Draws its samples from the generator of the training."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            x = torch.randn(4)
            yield x, x.sum()[None]


class Labelled(Module):
    """A labelled and an unlabelled loader at once."""

    def training_step(self, batch: Any) -> Any:
        (x, y), (other, _) = batch["labelled"], batch["other"]
        moved = self.net(other) - self.net(other + 0.01)
        return F.mse_loss(self.net(x), y) + 0.1 * moved.square().mean()


def loader(rows: int, **options: Any) -> DataLoader[Any]:
    data = TensorDataset(randn(rows, 4, seed=1).float(), randn(rows, 1, seed=2).float())
    return DataLoader(data, batch_size=4, **options)


class Thawed(Module):
    """Its first layer is trained from the fourth step on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.net[0].requires_grad_(self.global_step >= 3)


class LooksBack(Module):
    """Logs the norm of the gradients of the step before."""

    def training_step(self, batch: Any) -> Any:
        norms = [float(p.grad.norm()) for p in self.parameters() if p.grad is not None]
        self.log("norm", sum(norms), batch_size=6)
        return super().training_step(batch)


class Halved(Module):
    """A backward pass that scales what it has computed."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(retain_graph=True)
        for param in self.parameters():
            param.grad.mul_(0.5)


class Mixed(Module):
    """Mixup, its weights drawn by NumPy."""

    def training_step(self, batch: Any) -> Any:
        share, order = float(np.random.beta(1, 1)), torch.randperm(6)  # noqa: NPY002
        z = self.net(share * batch[0] + (1 - share) * batch[0][order])
        return share * F.cross_entropy(z, LABELS) + (1 - share) * F.cross_entropy(z, LABELS[order])


def flat(net: Any, batch: Any) -> Tensor:
    """The loss and the square of its own gradient."""
    loss = squared(net, batch)
    slopes = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    return loss + 0.1 * sum(slope.square().sum() for slope in slopes)


class Rates(Module):
    """Groups of parameters, and one scheduler after another."""

    def configure_optimizers(self) -> Any:
        first = {"params": self.net[0].parameters(), "lr": 1e-3, "weight_decay": 0.1}
        optimizer = torch.optim.AdamW([first, {"params": self.net[2].parameters()}], 1e-2)
        rates = [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
        scheduler = lr_scheduler.SequentialLR(optimizer, rates, [2])
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Taking(Module):
    """Two optimizers by hand: one accumulates over two batches, the other has its turn at each."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleList([mlp(), mlp()]), None)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        slow, fast = self.optimizers()
        self.manual_backward(squared(self.net[0], batch) / 2)
        if batch_idx % 2:
            slow.step()
            slow.zero_grad()
        self.toggle_optimizer(fast)
        self.manual_backward(squared(lambda x: self.net[1](x) + self.net[0](x).detach(), batch))
        fast.step()
        fast.zero_grad()
        self.untoggle_optimizer(fast)
        self.lr_schedulers()[1].step()

    def configure_optimizers(self) -> Any:
        kinds = (torch.optim.SGD, torch.optim.AdamW)
        optimizers = [kind(n.parameters(), 1e-2) for kind, n in zip(kinds, self.net, strict=True)]
        return optimizers, [lr_scheduler.StepLR(optimizer, 2) for optimizer in optimizers]


class Routed(nn.Module):
    """Each sample goes to its two best experts of four; who is idle gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 1) for _ in range(4))
        self.register_buffer("load", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros(len(x), 1)
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                self.load[number] += len(rows)
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return out


class Equilibrium(nn.Module):
    """A fixed point found without a graph, whose gradient a hook solves for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        def move(z: Tensor) -> Tensor:
            return torch.tanh(0.5 * self.inner(z) + self.outer(x))

        z = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(30):
                z = move(z)
        z = move(z)
        at = z.detach().requires_grad_()
        moved = move(at)

        def solve(slope: Tensor) -> Tensor:
            y = slope
            for _ in range(20):
                y = torch.autograd.grad(moved, at, y, retain_graph=True)[0] + slope
            return y

        if z.requires_grad:
            z.register_hook(solve)
        return self.head(z)


def overlap(net: Any, batch: Any) -> Tensor:
    """Dice and cross-entropy of a segmentation with a label to be ignored."""
    z = net(batch[0])
    true = F.one_hot(batch[1], 3).permute(0, 3, 1, 2).float()
    p = z.softmax(1)
    dice = 1 - (2 * (p * true).sum((2, 3)) / (p + true).sum((2, 3))).mean()
    return dice + F.cross_entropy(z, batch[1], ignore_index=2)


def segmented() -> Training:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.GELU(), nn.ConvTranspose2d(4, 3, 4, 2, 1)
    )
    return train(net, overlap, (IMAGES, torch.randint(0, 3, (6, 6, 6), generator=generator(1))))


def averaged() -> Training:
    swa = pl.callbacks.StochasticWeightAveraging(1e-2, swa_epoch_start=1)
    options = {"max_epochs": 4, "max_steps": -1}
    return Training(Module(mlp(nn.BatchNorm1d(5)), squared), batches(), options=options,
                    callbacks=[swa])  # fmt: skip


def in_half(net: nn.Module) -> Training:
    return Training(Module(net, entropy), [(X, LABELS)], options={"precision": "bf16-true"})


SETUPS = [
    Setup("a loss of the model's own", lambda: Training(OwnLoss(Tagger(), None), [TOKENS]),
        quick=True),
    Setup("a whole output returned", lambda: Training(WholeOutput(Tagger(), None), [TOKENS])),
    Setup("slots", lambda: train(mlp(), lambda net, b: F.mse_loss(net(b.x), b.y), Slots())),
    Setup("a stream from the global generator", lambda: Training(
        Module(mlp(), squared), DataLoader(Endless(), batch_size=3))),
    Setup("labelled and unlabelled", lambda: Training(Labelled(mlp(), None), CombinedLoader(
        {"labelled": loader(8), "other": loader(12, shuffle=True)}, "max_size_cycle"))),
    Setup("first layer thawed", lambda: Training(Thawed(mlp(), squared), [(X, Y)]), nan=None),
    Setup("a look at the last gradients", lambda: Training(LooksBack(mlp(), squared), [(X, Y)]),
        quick=True),
    Setup("gradients halved", lambda: Training(Halved(mlp(), squared), [(X, Y)])),
    Setup("mixup", lambda: Training(Mixed(nn.Linear(4, 3), None), [(X, LABELS)])),
    Setup("penalty on its own gradient", lambda: train(mlp(), flat)),
    Setup("one scheduler after another", lambda: Training(Rates(mlp(), squared), [(X, Y)])),
    Setup("turns of two optimizers", lambda: Training(Taking(), [(X, Y)]), nan=None),
    Setup("routed to two experts", lambda: regression(Routed())),
    Setup("equilibrium with a hook", lambda: regression(Equilibrium()), nan=None),
    Setup("segmentation", segmented),
    Setup("averaged and normalized", averaged, nan=None),
    Setup("lazy, with batch norm", lambda: regression(nn.Sequential(
        nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(1)))),
    Setup("traced", lambda: regression(torch.jit.trace(mlp(), X)), nan=None),
    Setup("half precision throughout", lambda: in_half(
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))),
]  # fmt: skip
