"""Losses of pairs, of distributions and of decisions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import mlp, randn
from tests.trust.architectures.build import fit, trained
from tests.trust.architectures.case import Case, Problem

LABELS = torch.arange(8) % 2


def of(loss: Callable[[Tensor], Tensor]) -> Problem:
    """A loss of eight vectors of three numbers each."""
    return fit(mlp(3, 4, 3), randn(8, 3, seed=2), loss=loss)


def case(name: str, loss: Callable[[Tensor], Tensor], path: str | None = None, **more: str) -> Case:
    return Case(name, lambda: of(loss), path=path, **more)


def triplet(z: Tensor) -> Tensor:
    return F.triplet_margin_loss(z[:2], z[2:4], z[4:6], margin=2.0)


def contrastive(z: Tensor) -> Tensor:
    distance = (z[:4] - z[4:]).square().sum(1).add(1e-6).sqrt()
    same = torch.tensor([1.0, 0.0, 1.0, 0.0]).to(z)
    return (same * distance**2 + (1 - same) * F.relu(2 - distance) ** 2).mean()


def info_nce(z: Tensor) -> Tensor:
    a, b = F.normalize(z[:4], dim=1), F.normalize(z[4:], dim=1)
    return F.cross_entropy(a @ b.T / 0.5, torch.arange(4))


def nt_xent(z: Tensor) -> Tensor:
    u = F.normalize(z, dim=1)
    similarity = (u @ u.T / 0.5).masked_fill(torch.eye(8, dtype=torch.bool), -1e9)
    return F.cross_entropy(similarity, torch.arange(8).roll(4))


def barlow(z: Tensor) -> Tensor:
    a, b = ((u - u.mean(0)) / u.std(0) for u in (z[:4], z[4:]))
    c = a.T @ b / 4
    return (c.diagonal() - 1).square().sum() + 0.1 * (c - torch.diag(c.diagonal())).square().sum()


def vicreg(z: Tensor) -> Tensor:
    a, b = z[:4], z[4:]
    variance = F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
    centred = z - z.mean(0)
    c = centred.T @ centred / 7
    return F.mse_loss(a, b) + variance + (c - torch.diag(c.diagonal())).square().sum() / 3


def discrepancy(z: Tensor) -> Tensor:
    """The maximum mean discrepancy of two halves."""
    k = torch.exp(-(z[:, None] - z).square().sum(2))
    return k[:4, :4].mean() + k[4:, 4:].mean() - 2 * k[:4, 4:].mean() + 0.1 * z.square().mean()


def sinkhorn(z: Tensor) -> Tensor:
    """Transport between the outputs and fixed points, by ten iterations."""
    cost = (z[:, None] - randn(5, 3, seed=4)).square().sum(2)
    f, g = torch.zeros(8).to(z), torch.zeros(5).to(z)
    for _ in range(10):
        f = -torch.logsumexp(g - cost, 1)
        g = -torch.logsumexp(f[:, None] - cost, 0)
    return ((f[:, None] + g - cost).exp() * cost).sum()


def soft_sorted(z: Tensor) -> Tensor:
    """A listwise ranking loss."""
    return -(randn(8, 3, seed=4).softmax(0) * z.log_softmax(0)).sum()


def bootstrapped(z: Tensor) -> Tensor:
    """Targets that are outputs themselves, with a stopped gradient."""
    return (z[:4] - (1 + 0.9 * z[4:].detach())).square().mean()


def clipped(z: Tensor) -> Tensor:
    """The clipped objective of proximal policy optimization."""
    ratio = (z.log_softmax(1) - randn(8, 3, seed=4).log_softmax(1))[:, 0].exp()
    gain = randn(8, seed=5)
    return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()


def policy(z: Tensor) -> Tensor:
    """A policy gradient with a value function."""
    chosen = z[:, :2].log_softmax(1).gather(1, LABELS[:, None])[:, 0]
    reward = randn(8, seed=5)
    return -(chosen * (reward - z[:, 2].detach())).mean() + (reward - z[:, 2]).square().mean()


def contrastive_energy() -> Problem:
    """The energy of data lowered against that of noise."""
    net, x, noise = mlp(2, 4, 1), randn(6, 2, seed=2), 2 * randn(6, 2, seed=3)

    def loss() -> Tensor:
        low, high = net(x), net(noise)
        return low.mean() - high.mean() + 0.1 * (low.square() + high.square()).mean()

    return Problem(trained(net), loss, net)


def score_matching() -> Problem:
    """Denoising: the slope of a learned energy in its input."""
    net, x = mlp(2, 4, 1), randn(6, 2, seed=2)
    noise = 0.3 * randn(6, 2, seed=3)

    def loss() -> Tensor:
        seen = (x + noise).requires_grad_()
        (score,) = torch.autograd.grad(net(seen).sum(), seen, create_graph=True)
        return (score + noise).square().sum(1).mean()

    return Problem(trained(net), loss, net)


def penalised_critic() -> Problem:
    """A critic with a penalty of its gradient's norm."""
    net, real, fake = mlp(2, 4, 1), randn(6, 2, seed=2), randn(6, 2, seed=3)

    def loss() -> Tensor:
        between = (0.5 * real + 0.5 * fake).requires_grad_()
        (slope,) = torch.autograd.grad(net(between).sum(), between, create_graph=True)
        penalty = ((slope.square().sum(1) + 1e-12).sqrt() - 1).square().mean()
        return net(fake).mean() - net(real).mean() + 10 * penalty

    return Problem(trained(net), loss, net)


def quantized() -> Problem:
    """Codes rounded to a learned table, with a gradient straight through."""
    net, decoder, table = mlp(2, 4, 2), mlp(2, 4, 2), nn.Parameter(randn(3, 2, seed=4))
    x, module = randn(6, 2, seed=2), nn.ModuleList([net, decoder])

    def loss() -> Tensor:
        code = net(x)
        nearest = table[torch.cdist(code, table).argmin(1)]
        passed = code + (nearest - code).detach()
        near = (nearest - code.detach()).square().mean() + 0.25 * (
            nearest.detach() - code
        ).square().mean()
        return F.mse_loss(decoder(passed), x) + near

    return Problem([table, *trained(module)], loss, module)


STOPPED = "a stopped gradient: the gradient is not that of the loss"

CASES = [
    case("triplet", triplet),
    case("contrastive", contrastive),
    case(
        "cosine_embedding_loss",
        lambda z: F.cosine_embedding_loss(z[:4], z[4:], torch.tensor([1, -1, 1, -1])),
    ),
    case(
        "margin_ranking_loss",
        lambda z: F.margin_ranking_loss(z[:4, 0], z[4:, 0], torch.ones(4), margin=1.0),
    ),
    case(
        "Bayesian ranking", lambda z: -F.logsigmoid(z[:4, 0] - z[4:, 0]).mean(), grows="separable"
    ),
    case("InfoNCE", info_nce),
    case("NT-Xent", nt_xent),
    case("Barlow twins", barlow),
    case("VICReg", vicreg),
    case("maximum mean discrepancy", discrepancy),
    case("Sinkhorn", sinkhorn),
    case("listwise ranking", soft_sorted),
    case("bootstrapped targets", bootstrapped, unprobed=STOPPED),
    case("clipped policy", clipped, grows="a policy's ratio is unbounded"),
    case("policy and value", policy, unprobed=STOPPED, grows="a certain policy is at infinity"),
    Case("energy against noise", contrastive_energy, path=None),
    Case("score matching", score_matching, quick=True),
    Case("critic with a penalty", penalised_critic, path=None),
    Case("vector quantization", quantized, path=None, unprobed=STOPPED),
]
