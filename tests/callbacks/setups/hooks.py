"""Hooks of the module that take part in training, and what users log."""

from __future__ import annotations

import threading
from typing import Any

import torch
import torchmetrics
from torch import Tensor, nn

from tests.callbacks.setups.build import LABELS, Module, X, batches, mlp, squared
from tests.callbacks.setups.setup import Setup, Training


class Plain(Module):
    """The usual network and loss, for hooks to be added."""

    def __init__(self) -> None:
        super().__init__(mlp(nn.Tanh(), nn.Dropout(0.1)), squared)
        self.notes: list[Any] = []


class Noisy(Plain):
    """Noise on the gradients."""

    def on_after_backward(self) -> None:
        for p in self.parameters():
            p.grad += 0.01 * torch.randn_like(p)


class Norms(Plain):
    """Logs norms of gradients, and clips in its own way."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log_dict({f"norm {n}": p.grad.norm() for n, p in self.named_parameters()})

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_value_(self.parameters(), 0.05)


class Warm(Plain):
    """Raises the rate at first, and leaves out a step."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (self.trainer.global_step + 1)
        if batch_idx == 1 and epoch == 1:
            closure()
        else:
            optimizer.step(closure=closure)


class Backward(Plain):
    """Its own backward pass."""

    def backward(self, loss: Tensor) -> None:
        (2 * loss).backward(retain_graph=True)
        self.notes.append(float(self.net[0].weight.grad.norm()))


class Inner(Plain):
    """Calls backward in the step, for a loss besides."""

    def training_step(self, batch: Any) -> Any:
        (self.net(batch[0]).square().mean() / 10).backward()
        return super().training_step(batch)


class Ending(Plain):
    """Leaves an epoch early."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


class Curriculum(Plain):
    """Depends on the epoch, on the step, on the loss that it logged, and on what it has seen."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        last = float(self.trainer.callback_metrics.get("loss", 1.0))
        self.notes.append((batch_idx, self.current_epoch, self.global_step, last))
        loss = super().training_step(batch)
        return loss * (1 + self.current_epoch + 0.1 * self.global_step + 0.01 * len(self.notes))


class Growing(Plain):
    """Gets another layer in its second epoch, which the optimizer is told of."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net.insert(1, nn.Linear(5, 5))
            self.trainer.optimizers[0].add_param_group({"params": self.net[1].parameters()})


class Holding(Plain):
    """Holds what cannot be copied, and switches a layer to evaluation in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.stream = threading.Lock(), (i for i in range(100))

    def training_step(self, batch: Any) -> Any:
        self.net[2].train(self.calls % 2 == 0)
        with self.lock:
            return super().training_step(batch)


class Remembering(Plain):
    """Keeps a mean of the validation's outputs, made in inference mode, for its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(1)

    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        return loss * (1 + self.mean.clone().square().sum())

    def validation_step(self, batch: Any) -> None:
        self.mean = self.net(batch[0]).mean(0)


class Metrics(Plain):
    """Metrics of torchmetrics, by step and by epoch, reset by Lightning and by hand."""

    def __init__(self) -> None:
        super().__init__()
        names = ("MeanSquaredError", "R2Score")
        self.scores = torchmetrics.MetricCollection([getattr(torchmetrics, n)() for n in names])
        self.own, self.others = torchmetrics.CatMetric(), {"mean": torchmetrics.MeanMetric()}

    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        z = self.net(batch[0]).detach()
        self.log_dict(self.scores(z, batch[1]), on_step=True, on_epoch=True)
        self.log("object", self.scores["R2Score"], on_step=False, on_epoch=True)
        self.own.update(z), self.others["mean"].update(z)
        self.log("summed", loss, on_step=True, on_epoch=True, reduce_fx="max", prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("own", self.own.compute().std())
        self.log("others", self.others["mean"].compute())
        self.own.reset()


class Direct(Plain):
    """Writes to its logger and keeps its hyperparameters."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        self.logger.log_metrics({"direct": float(loss)}, step=self.calls)
        return loss


class Accuracy(Module):
    """Counts of classes in buffers of its own, and an accuracy."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 3), None)
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.register_buffer("counts", torch.zeros(3, dtype=torch.long))

    def training_step(self, batch: Any) -> Any:
        z = self.net(batch[0])
        self.counts += torch.bincount(z.argmax(-1), minlength=3)
        self.accuracy(z, batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return nn.functional.cross_entropy(z, batch[1])


def hooked(kind: Any, **options: Any) -> Training:
    return Training(kind(), batches(), **options)


SETUPS = [
    Setup("noise on gradients", lambda: hooked(Noisy), quick=True),
    Setup("norms of gradients, clipped", lambda: hooked(Norms)),
    Setup("warm-up by hand", lambda: hooked(Warm)),
    Setup("a backward pass of its own", lambda: hooked(Backward), quick=True),
    Setup("backward in the step", lambda: hooked(Inner)),
    Setup("epochs that end early", lambda: hooked(Ending)),
    Setup("curriculum", lambda: hooked(Curriculum), quick=True),
    Setup("a growing network", lambda: hooked(Growing)),
    Setup("a lock and a generator", lambda: hooked(Holding)),
    Setup("remembered from validation", lambda: hooked(Remembering, validation=batches(2))),
    Setup("metrics", lambda: hooked(Metrics), quick=True),
    Setup("straight to the logger", lambda: hooked(Direct)),
    Setup("accuracy", lambda: Training(Accuracy(), [(X, LABELS)])),
]  # fmt: skip
