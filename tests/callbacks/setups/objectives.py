"""Objectives of self-supervised, generative, structured and reinforcement learning."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F

from tests.callbacks.setups.build import LABELS, SERIES, WORDS, Module, X, Y, mlp, train
from tests.callbacks.setups.setup import BY_DIFFERENCES, Setup, Training


class Bank(Module):
    """Negatives from a queue that each step writes to, encoded by a slow copy, as in MoCo."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 3), None)
        self.register_buffer("queue", F.normalize(torch.randn(8, 3), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.slow = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Any) -> Tensor:
        with torch.no_grad():
            for kept, new in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                kept.mul_(0.9).add_(0.1 * new)
            keys = F.normalize(self.slow(batch[0] + 0.05 * torch.randn(6, 4)), dim=1)
        queries = F.normalize(self.net(batch[0]), dim=1)
        positive = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([positive, queries @ self.queue.clone().T], 1) / 0.2
        at = int(self.place)
        self.queue[at : at + 2] = keys[:2]
        self.place.fill_((at + 2) % 8)
        return F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))


def two_views(net: Any, batch: Any) -> Tensor:
    """Two noisy views of each sample, told from all others, as in SimCLR."""
    views = [batch[0] + 0.1 * torch.randn(6, 4) for _ in range(2)]
    z = F.normalize(net(torch.cat(views)), dim=1)
    likeness = (z @ z.T / 0.5).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(likeness, (torch.arange(12) + 6) % 12)


def decorrelated(net: Any, batch: Any) -> Tensor:
    """Invariance, variance and covariance, as in VICReg."""
    a, b = (net(batch[0] + 0.1 * torch.randn(6, 4)) for _ in range(2))
    covariance = (a - a.mean(0)).T @ (a - a.mean(0)) / 5
    beside = covariance - torch.diag(covariance.diagonal())
    spread = F.relu(1 - (a.var(0) + 1e-4).sqrt()).mean()
    return F.mse_loss(a, b) + spread + beside.square().sum() / 3


def hardest(net: Any, batch: Any) -> Tensor:
    """For each sample the farthest of its class and the nearest of the others."""
    z = F.normalize(net(batch[0]), dim=1)
    distance, same = torch.cdist(z, z), LABELS[:, None] == LABELS
    far, near = (distance * same).amax(1), (distance + 10 * same).amin(1)
    return F.relu(far - near + 0.3).mean()


class Codes(Module):
    """A variational autoencoder of PyTorch's distributions, which logs the parts of its bound."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleList([nn.Linear(4, 4), nn.Linear(2, 4)]), None)

    def training_step(self, batch: Any) -> Tensor:
        mean, log = self.net[0](batch[0]).chunk(2, 1)
        posterior = Normal(mean, log.exp())
        code = posterior.rsample()
        divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
        error = -Normal(self.net[1](code), 1.0).log_prob(batch[0]).sum(1).mean()
        self.log_dict({"divergence": divergence, "error": error}, batch_size=6)
        return divergence + error


def energy(net: Any, batch: Any) -> Tensor:
    """Energies of data, against those of samples that Langevin dynamics draws in the step."""
    sample = torch.randn(6, 4)
    for _ in range(3):
        sample.requires_grad_(True)
        (slope,) = torch.autograd.grad(net(sample).sum(), sample)
        sample = (sample - 0.1 * slope + 0.01 * torch.randn(6, 4)).detach()
    seen, drawn = net(batch[0]).mean(), net(sample).mean()
    return seen - drawn + 0.1 * (seen**2 + drawn**2)


def scores(net: Any, batch: Any) -> Tensor:
    """Score matching, with the trace of a Jacobian in the inputs."""
    x = batch[0].clone().requires_grad_(True)
    s = net(x)
    rows = [torch.autograd.grad(s[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(4)]
    return (0.5 * s.square().sum(1) + sum(rows)).mean()


def transport(net: Any, batch: Any) -> Tensor:
    """Optimal transport between outputs and targets, by Sinkhorn's iteration."""
    cost = (net(batch[0]) - batch[1].T).square()
    u = v = torch.zeros(6)
    for _ in range(5):
        u = -torch.logsumexp(v - 10 * cost, 1)
        v = -torch.logsumexp(u[:, None] - 10 * cost, 0)
    return ((u[:, None] + v - 10 * cost).exp() * cost).sum()


class Chain(Module):
    """A conditional random field over the labels of a sequence."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 3), None)
        self.follows = nn.Parameter(torch.zeros(3, 3))

    def training_step(self, batch: Any) -> Tensor:
        scores, labels = self.net(batch[0]), WORDS % 3
        forward = scores[:, 0]
        for place in range(1, 5):
            forward = torch.logsumexp(forward[:, :, None] + self.follows, 1) + scores[:, place]
        own = scores.gather(2, labels[..., None]).sum((1, 2))
        own = own + self.follows[labels[:, :-1], labels[:, 1:]].sum(1)
        return (torch.logsumexp(forward, 1) - own).mean()


def quantiles(net: Any, batch: Any) -> Tensor:
    shares, error = torch.tensor([0.1, 0.5, 0.9]), batch[1] - net(batch[0])
    return torch.maximum(shares * error, (shares - 1) * error).mean()


def clipped_ratio(net: Any, batch: Any) -> Tensor:
    """Proximal policy optimization."""
    policy = Categorical(logits=net(batch[0]))
    before = (policy.logits.detach() + 0.1 * torch.randn(6, 3)).log_softmax(1)
    ratio = (policy.log_prob(LABELS) - before[torch.arange(6), LABELS]).exp()
    advantage = torch.linspace(-1, 1, 6)
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


class Replayed(Module):
    """Q-learning on a growing list of what was seen, with a copy that follows now and then."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 3), None, torch.optim.RMSprop)
        self.target, self.seen = copy.deepcopy(self.net), []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0].clone())
        x = torch.cat(self.seen[-3:])[torch.randint(6, (4,))]
        with torch.no_grad():
            value = 1 + 0.9 * self.target(x).amax(1)
        if self.global_step % 3 == 0:
            self.target.load_state_dict(self.net.state_dict())
        return F.smooth_l1_loss(self.net(x)[:, 0], value)


class Adapted(Module):
    """Two steps of gradient descent inside of the step, through which it differentiates."""

    def training_step(self, batch: Any) -> Tensor:
        moved = dict(self.net.named_parameters())

        def loss(rows: slice) -> Tensor:
            z = torch.func.functional_call(self.net, moved, (batch[0][rows],))
            return F.mse_loss(z, batch[1][rows])

        for _ in range(2):
            slopes = torch.autograd.grad(loss(slice(0, 3)), list(moved.values()), create_graph=True)
            pairs = zip(moved.items(), slopes, strict=True)
            moved = {name: value - 0.1 * slope for (name, value), slope in pairs}
        return loss(slice(3, 6))


def flow(net: Any, batch: Any) -> Tensor:
    """The likelihood of a linear flow, with the logarithm of a determinant."""
    return 0.5 * net(batch[0]).square().sum(1).mean() - torch.linalg.slogdet(net.weight)[1]


def projected(net: Any, batch: Any) -> Tensor:
    """Eigenvalues of what comes out."""
    values = torch.linalg.eigvalsh(net(batch[0]).T @ net(batch[0]))
    return values[-1] - values[0]


SETUPS = [
    Setup("negatives from a queue", lambda: Training(Bank(), [(X, Y)]), quick=True),
    Setup("two views", lambda: train(nn.Linear(4, 3), two_views)),
    Setup("decorrelated views", lambda: train(nn.Linear(4, 3), decorrelated)),
    Setup("hardest triplets", lambda: train(nn.Linear(4, 3), hardest), warns=BY_DIFFERENCES),
    Setup("distributions", lambda: Training(Codes(), [(X, Y)])),
    Setup("energies by langevin dynamics", lambda: train(mlp(), energy), nan=None),
    Setup("score matching", lambda: train(
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)), scores)),
    Setup("optimal transport", lambda: train(mlp(), transport)),
    Setup("random field", lambda: Training(Chain(), [(SERIES,)])),
    Setup("quantiles", lambda: train(nn.Linear(4, 3), quantiles)),
    Setup("clipped policy", lambda: train(nn.Linear(4, 3), clipped_ratio), nan=None),
    Setup("q-learning", lambda: Training(Replayed(), [(X, Y)]), nan=None),
    Setup("steps within the step", lambda: Training(Adapted(mlp(), None), [(X, Y)]), quick=True),
    Setup("linear flow", lambda: train(nn.Linear(4, 4), flow)),
    Setup("eigenvalues of outputs", lambda: train(nn.Linear(4, 3), projected), nan=None),
]  # fmt: skip
