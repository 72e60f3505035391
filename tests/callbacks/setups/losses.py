"""Losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.callbacks.setups.build import LABELS, Module, X, Y, mlp, squared, train
from tests.callbacks.setups.setup import Setup, Training


class Skipping(Module):
    """Leaves out every third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if self.global_step % 3 == 2 else super().training_step(batch)


class Dictionary(Module):
    """Its batch is a dictionary, from which it takes the labels; and so is what it returns."""

    def training_step(self, batch: Any) -> Any:
        labels = batch.pop("labels")
        loss = F.cross_entropy(self.net(batch["inputs"]), labels)
        return {"loss": loss, "detached": loss.detach(), "names": batch["text"]}


class Alternating(Module):
    """Another loss at every other batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        z = self.net(batch[0])
        return F.mse_loss(z, batch[1]) if batch_idx % 2 else F.l1_loss(z, batch[1])


class Learned(nn.Module):
    """Weights of two losses, learned with the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.logs = mlp(), nn.Parameter(torch.zeros(2))

    def losses(self, batch: Any) -> Tensor:
        z = self.net(batch[0])
        both = torch.stack([F.mse_loss(z, batch[1]), z.square().mean()])
        return (both * torch.exp(-self.logs) + self.logs).sum()


def contrast(net: Any, batch: Any) -> Tensor:
    z = F.normalize(net(batch[0]), dim=-1)
    return F.cross_entropy(z @ z.roll(1, 0).T / 0.1, torch.arange(6))


def likelihood(net: Any, batch: Any) -> Tensor:
    mean, variance = net(batch[0]).chunk(2, -1)
    return F.gaussian_nll_loss(mean, batch[1], F.softplus(variance))


def gaussian_process(net: Any, batch: Any) -> Tensor:
    """The marginal likelihood, with a kernel of features."""
    h = net(batch[0])
    root = torch.linalg.cholesky(h @ h.T + torch.eye(6))
    return torch.cholesky_solve(batch[1], root).mul(batch[1]).sum() + root.diagonal().log().sum()


def several(net: Any, batch: Any) -> Tensor:
    labels = F.one_hot(LABELS).float()
    return F.binary_cross_entropy_with_logits(net(batch[0]), labels, pos_weight=torch.ones(3) * 2)


def smoothed(net: Any, batch: Any) -> Tensor:
    labels = LABELS.masked_fill(torch.arange(6) == 1, -100)
    return F.cross_entropy(net(batch[0]), labels, torch.arange(1, 4).float(), label_smoothing=0.1)


def penalized(net: Any, batch: Any) -> Tensor:
    return squared(net, batch) + sum(p.abs().sum() for p in net.parameters()) / 100


def not_finite(net: Any, batch: Any) -> Tensor:
    return net(batch[0]).mean() * float("nan")


def infinite(net: Any, batch: Any) -> Tensor:
    return net(batch[0]).mean() + float("inf")


SETUPS = [
    Setup("absolute error", lambda: train(mlp(), lambda net, b: F.l1_loss(net(b[0]), b[1]))),
    Setup("fourth power", lambda: train(
        mlp(), lambda net, b: (net(b[0]) - b[1]).pow(4).mean())),
    Setup("huber and lasso", lambda: train(
        mlp(), lambda net, b: F.huber_loss(net(b[0]), b[1]) + penalized(net, b))),
    Setup("triplets", lambda: train(
        nn.Linear(4, 3), lambda net, b: F.triplet_margin_loss(*net(b[0]).chunk(3)))),
    Setup("contrast", lambda: train(nn.Linear(4, 3), contrast)),
    Setup("gaussian likelihood", lambda: train(nn.Linear(4, 2), likelihood)),
    Setup("gaussian process", lambda: train(nn.Linear(4, 3), gaussian_process)),
    Setup("several labels", lambda: train(nn.Linear(4, 3), several)),
    Setup("smoothed and ignored labels", lambda: train(nn.Linear(4, 3), smoothed)),
    Setup("poisson", lambda: train(
        mlp(), lambda net, b: F.poisson_nll_loss(net(b[0]), b[1].abs()))),
    Setup("learned weights of losses", lambda: train(Learned(), lambda net, b: net.losses(b))),
    Setup("no loss at some steps", lambda: Training(Skipping(mlp(), squared), [(X, Y)] * 7),
          nan=None, quick=True),
    Setup("another loss at every other batch", lambda: Training(
        Alternating(mlp(), None), [(X, Y)] * 3)),
    Setup("loss that is NaN", lambda: train(mlp(), not_finite), nan=None, quick=True),
    Setup("loss that is infinite", lambda: train(mlp(), infinite), nan=None),
    Setup("constant loss", lambda: train(mlp(), lambda net, b: 0 * net(b[0]).sum()), nan=None),
    Setup("dictionary", lambda: Training(
        Dictionary(nn.Linear(4, 3), None), [{"inputs": X, "labels": LABELS, "text": ["a"] * 6}]),
        quick=True),
]  # fmt: skip
