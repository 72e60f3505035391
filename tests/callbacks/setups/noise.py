"""Layers and steps that draw random numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.callbacks.setups.build import Function, Module, X, Y, mlp, regression, squared, train
from tests.callbacks.setups.setup import Setup, Training
from tests.helpers import generator


class Variational(nn.Module):
    """An autoencoder with a random code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def bound(self, x: Tensor) -> Tensor:
        mean, log = self.encoder(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (log / 2).exp()
        divergence = (mean.square() + log.exp() - log - 1).sum(-1).mean() / 2
        return F.mse_loss(self.decoder(code), x) + divergence


class Quantized(nn.Module):
    """A codebook that follows the codes by means over time, in buffers, as in VQ-VAE."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 1)
        self.register_buffer("book", torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        chosen = (code[:, None] - self.book).square().sum(-1).argmin(-1)
        with torch.no_grad():
            for i in chosen.unique():
                self.book[i] = 0.9 * self.book[i] + 0.1 * code[chosen == i].mean(0)
        return self.decoder(code + (self.book[chosen] - code).detach())


class Sources(Module):
    """Noise from four generators, one of which is the module's own."""

    def __init__(self) -> None:
        super().__init__(mlp(), squared)
        self.own, self.numpy = generator(3), np.random.default_rng(4)

    def training_step(self, batch: Any) -> Any:
        scale = random.random() + np.random.rand() + float(self.numpy.random())  # noqa: NPY002
        noise = torch.randn(batch[0].shape, generator=self.own) + torch.rand(4)
        return super().training_step((batch[0] + 0.1 * scale * noise, batch[1]))


class Replay(Module):
    """Keeps its batches, and trains on a random one of them."""

    def __init__(self) -> None:
        super().__init__(mlp(), squared)
        self.notes: list[Any] = []

    def training_step(self, batch: Any) -> Any:
        self.notes.append((batch[0] + len(self.notes), batch[1]))
        return super().training_step(random.choice(self.notes))


def depth(h: Tensor) -> Tensor:
    """A residual layer that is left out now and then."""
    return h if random.random() < 0.5 else h + torch.tanh(h)


def gumbel(h: Tensor) -> Tensor:
    return F.gumbel_softmax(h, hard=True)


def policy(net: Any, batch: Any) -> Tensor:
    """REINFORCE."""
    choices = torch.distributions.Categorical(logits=net(batch[0]))
    actions = choices.sample()
    return -(choices.log_prob(actions) * actions).mean()


def denoising(net: Any, batch: Any) -> Tensor:
    """A diffusion model's loss at random times."""
    x, t = batch[0][:, :3], torch.rand(6, 1)
    noise = torch.randn_like(x)
    return F.mse_loss(net(torch.cat([x * t.cos() + noise * t.sin(), t], -1)), noise)


SETUPS = [
    Setup("dropout", lambda: regression(mlp(nn.Dropout(0.3), nn.AlphaDropout(0.1)))),
    Setup("randomized slopes", lambda: regression(mlp(nn.RReLU()))),
    Setup("stochastic depth", lambda: regression(Function(depth))),
    Setup("gumbel softmax", lambda: regression(Function(gumbel))),
    Setup("variational autoencoder", lambda: train(
        Variational(), lambda net, b: net.bound(b[0])), quick=True),
    Setup("quantized codes", lambda: regression(Quantized())),
    Setup("four generators", lambda: Training(Sources(), [(X, Y)]), quick=True),
    Setup("replay", lambda: Training(Replay(), [(X, Y)])),
    Setup("policy gradient", lambda: train(nn.Linear(4, 3), policy), nan=None),
    Setup("diffusion", lambda: train(nn.Linear(4, 3), denoising)),
]  # fmt: skip
