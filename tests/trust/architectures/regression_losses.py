"""Losses of regression: norms, likelihoods and penalties."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Gamma, Laplace, NegativeBinomial, Normal, StudentT
from torch.nn import functional as F

from tests.helpers import mlp, randn
from tests.trust.architectures.build import fit, trained
from tests.trust.architectures.case import Case, Problem

Y = randn(10, 2, seed=3)
COUNTS = torch.arange(20).view(10, 2) % 4


def of(loss: Callable[[Tensor], Tensor], convex: bool = False) -> Problem:
    """A loss of ten samples of two outputs; Gauss-Newton is checked where it is convex."""
    return fit(mlp(3, 4, 2), randn(10, 3, seed=2), loss=loss, criterion=loss if convex else None)


def penalised(penalty: Callable[[Tensor], Tensor], of_weights: bool = True) -> Problem:
    """The mean square plus a penalty of the weights or of the outputs."""
    net, x = mlp(3, 4, 2), randn(10, 3, seed=2)

    def loss() -> Tensor:
        z = net(x)
        extra = sum(penalty(p) for p in net.parameters()) if of_weights else penalty(z)
        return F.mse_loss(z, Y) + 0.01 * extra

    return Problem(trained(net), loss, net)


def uncertain() -> Problem:
    """Two tasks weighted by learned variances (Kendall, Gal and Cipolla 2018)."""
    net, x, s = mlp(3, 4, 2), randn(10, 3, seed=2), nn.Parameter(torch.zeros(2))

    def loss() -> Tensor:
        errors = (net(x) - Y).square().mean(0)
        return (torch.exp(-s) * errors + s).sum()

    return Problem([s, *trained(net)], loss, net)


def autoencoded() -> Problem:
    """The evidence lower bound of a variational autoencoder."""
    encoder, decoder, x = mlp(3, 4, 2), mlp(1, 3, 3), randn(8, 3, seed=2)

    def loss() -> Tensor:
        mean, log_var = encoder(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        divergence = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)
        return ((decoder(code) - x).square().sum(1) + divergence).mean()

    module = nn.ModuleList([encoder, decoder])
    return Problem(trained(module), loss, module)


def mixture(z: Tensor) -> Tensor:
    """Minus the log-likelihood of a density network with two components."""
    terms = torch.stack([Normal(z[:, k], 1.0).log_prob(Y[:, 0]) for k in range(2)])
    return -torch.logsumexp(terms, 0).mean()


WEIGHTS = torch.linspace(0.1, 2, 10)[:, None].to(torch.float64)

CASES = [
    Case("mse_loss", lambda: of(lambda z: F.mse_loss(z, Y), True)),
    Case("mse_loss, sum", lambda: of(lambda z: F.mse_loss(z, Y, reduction="sum"), True)),
    Case(
        "mse_loss, weighted samples",
        lambda: of(lambda z: (WEIGHTS * F.mse_loss(z, Y, reduction="none")).mean(), True),
    ),
    Case(
        "square of a weighted residual",
        lambda: of(lambda z: (WEIGHTS * (z - Y)).square().mean(), True),
    ),
    Case("huber_loss", lambda: of(lambda z: F.huber_loss(z, Y), True)),
    Case("smooth_l1_loss", lambda: of(lambda z: F.smooth_l1_loss(z, Y), True)),
    Case(
        "Huber by hand",
        lambda: of(
            lambda z: torch.where((z - Y).abs() < 1, 0.5 * (z - Y) ** 2, (z - Y).abs() - 0.5).mean()
        ),
    ),
    Case("log-cosh", lambda: of(lambda z: (z - Y).cosh().log().mean())),
    Case("fourth power", lambda: of(lambda z: ((z - Y) ** 4).mean())),
    Case("Charbonnier", lambda: of(lambda z: ((z - Y) ** 2 + 1e-2).sqrt().mean())),
    Case("l1_loss", lambda: of(lambda z: F.l1_loss(z, Y)), path=None),
    Case(
        "quantile",
        lambda: of(lambda z: torch.maximum(0.9 * (Y - z), -0.1 * (Y - z)).mean()),
        path=None,
    ),
    Case("RMSE", lambda: of(lambda z: F.mse_loss(z, Y).sqrt())),
    Case("relative L2", lambda: of(lambda z: (z - Y).norm() / Y.norm())),
    Case(
        "relative L2 of each sample",
        lambda: of(lambda z: ((z - Y).norm(dim=1) / Y.norm(dim=1)).mean()),
    ),
    Case("log of the mean square", lambda: of(lambda z: F.mse_loss(z, Y).log())),
    Case(
        "mean square of logarithms",
        lambda: of(lambda z: (torch.log1p(F.softplus(z)) - Y.abs().log1p()).square().mean()),
    ),
    Case(
        "one minus R squared",
        lambda: of(lambda z: (z - Y).square().sum() / (Y - Y.mean()).square().sum(), True),
    ),
    Case(
        "correlation",
        lambda: of(lambda z: 1 - F.cosine_similarity(z - z.mean(0), Y - Y.mean(0), dim=0).mean()),
        path=None,
    ),
    Case("relative error in percent", lambda: of(lambda z: ((z - Y) / Y).abs().mean()), path=None),
    Case(
        "log of a Cauchy density", lambda: of(lambda z: torch.log1p((z - Y) ** 2).mean()), path=None
    ),
    Case(
        "Gaussian, variance learned",
        lambda: of(lambda z: F.gaussian_nll_loss(z[:, 0], Y[:, 0], F.softplus(z[:, 1]))),
        path=None,
    ),
    Case(
        "Gaussian, log variance learned",
        lambda: of(lambda z: (z[:, 1] + (z[:, 0] - Y[:, 0]) ** 2 * (-z[:, 1]).exp()).mean()),
        path=None,
    ),
    Case("Normal.log_prob", lambda: of(lambda z: -Normal(z, 0.5).log_prob(Y).mean()), path=None),
    Case(
        "Normal.log_prob, scale learned",
        lambda: of(lambda z: -Normal(z[:, 0], z[:, 1].exp()).log_prob(Y[:, 0]).mean()),
        path=None,
    ),
    Case("Laplace.log_prob", lambda: of(lambda z: -Laplace(z, 0.5).log_prob(Y).mean()), path=None),
    Case(
        "StudentT.log_prob",
        lambda: of(lambda z: -StudentT(3.0, z, 0.5).log_prob(Y).mean()),
        path=None,
    ),
    Case(
        "Gamma.log_prob",
        lambda: of(lambda z: -Gamma(F.softplus(z) + 0.1, 1.0).log_prob(Y.abs() + 0.1).mean()),
        path=None,
    ),
    Case(
        "NegativeBinomial.log_prob",
        lambda: of(lambda z: -NegativeBinomial(2.0, logits=z).log_prob(COUNTS).mean()),
        path=None,
    ),
    Case("poisson_nll_loss", lambda: of(lambda z: F.poisson_nll_loss(z, COUNTS))),
    Case("Poisson by hand", lambda: of(lambda z: (z.exp() - COUNTS * z).mean())),
    Case(
        "Tweedie",
        lambda: of(lambda z: (2 * COUNTS * (-0.5 * z).exp() + 2 * (0.5 * z).exp()).mean()),
        path=None,
    ),
    Case("mixture density", lambda: of(mixture), path=None),
    Case("uncertainty weighting", uncertain, path=None),
    Case("variational autoencoder", autoencoded, path=None),
    Case("weight decay in the loss", lambda: penalised(lambda p: p.square().sum()), quick=True),
    Case("weight decay by norms", lambda: penalised(lambda p: p.norm()), path=None),
    Case("lasso", lambda: penalised(lambda p: p.abs().sum()), path=None),
    Case(
        "total variation",
        lambda: penalised(lambda z: (z[1:] - z[:-1]).abs().sum(), False),
        path=None,
    ),
    Case("smoothness", lambda: penalised(lambda z: (z[1:] - z[:-1]).square().sum(), False)),
    Case(
        "barrier",
        lambda: penalised(lambda z: -torch.log(3 - z.clamp(max=2.9)).sum(), False),
        path=None,
    ),
]
