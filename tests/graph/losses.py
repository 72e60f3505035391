"""Losses in many spellings, as functions of a network's outputs, each with its plain spelling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tests.helpers import randn

Loss = Callable[[Tensor], Tensor]

ROWS, COLUMNS = 10, 3
INPUTS = randn(ROWS, 2, seed=60)
Y = torch.stack([torch.sin(2 * INPUTS[:, 0]), INPUTS.prod(1), INPUTS[:, 1].cos()], 1)
SIGNS = torch.where(Y > 0.3, 1.0, -1.0).double()
CLASSES = torch.arange(ROWS) % COLUMNS
COUNTS = torch.floor(3 * Y.abs())
ONES = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
SOFT = randn(ROWS, COLUMNS, seed=61).softmax(1)


def mse(z: Tensor) -> Tensor:
    return functional.mse_loss(z, Y)


def ce(z: Tensor) -> Tensor:
    return functional.cross_entropy(z, CLASSES)


def bce(z: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(z, (SIGNS > 0).double())


def huber(z: Tensor) -> Tensor:
    return functional.huber_loss(z, Y, delta=0.5)


def _huber_by_hand(z: Tensor) -> Tensor:
    r = z - Y
    return torch.where(r.abs() <= 0.5, 0.5 * r**2, 0.5 * (r.abs() - 0.25)).mean()


def _gather(z: Tensor) -> Tensor:
    return -z.log_softmax(1).gather(1, CLASSES[:, None]).mean()


def _logsumexp(z: Tensor) -> Tensor:
    return (z.logsumexp(1) - z.gather(1, CLASSES[:, None])[:, 0]).mean()


def _softmax(z: Tensor) -> Tensor:
    return -(z.softmax(1)[torch.arange(ROWS), CLASSES]).log().mean()


def _exponentials(z: Tensor) -> Tensor:
    e = z.exp()
    return -(e[torch.arange(ROWS), CLASSES] / e.sum(1)).log().mean()


def _focal(z: Tensor) -> Tensor:
    c = functional.cross_entropy(z, CLASSES, reduction="none")
    return ((1 - (-c).exp()) ** 2 * c).mean()


def _multilabel(z: Tensor) -> Tensor:
    return functional.multilabel_soft_margin_loss(z, (SIGNS > 0).double())


def _contrast(z: Tensor) -> Tensor:
    e, f = functional.normalize(z, dim=1), functional.normalize(Y + 0.1, dim=1)
    return functional.cross_entropy(e @ f.T / 0.5, torch.arange(ROWS))


def _evidence(z: Tensor) -> Tensor:
    return functional.kl_div(z.log_softmax(1), SOFT, reduction="batchmean")


def _across(z: Tensor) -> Tensor:
    """Which of the samples is the best, for each output."""
    return functional.kl_div(z.log_softmax(0), SOFT / SOFT.sum(0), reduction="sum")


def _poisson(z: Tensor) -> Tensor:
    return (z.exp() - COUNTS * z).mean()


def _power(z: Tensor) -> Tensor:
    return ((z - Y).abs() + 1e-12).pow(1.5).mean()


def _hinge(z: Tensor) -> Tensor:
    return (1 - SIGNS * z).relu().square().mean()


def _gaussian(z: Tensor) -> Tensor:
    variance = z[:, 1].exp() + 1e-2
    return 0.5 * (variance.log() + (z[:, 0] - Y[:, 0]) ** 2 / variance).mean()


def _gaussian_nll(z: Tensor) -> Tensor:
    return functional.gaussian_nll_loss(z[:, 0], Y[:, 0], z[:, 1].exp() + 1e-2)


def _gaussian_softplus(z: Tensor) -> Tensor:
    variance = functional.softplus(z[:, 1]) + 1e-2
    return (variance.log() + (z[:, 0] - Y[:, 0]) ** 2 / variance).mean()


SPELLINGS: dict[str, tuple[Loss, Loss]] = {
    "where": (lambda z: torch.where(ONES, (z - Y) ** 2, 0.0).mean(), mse),
    "masked_select": (lambda z: (z - Y).square().masked_select(ONES).mean(), mse),
    "masked_select before": (lambda z: (z - Y).masked_select(ONES).square().mean(), mse),
    "nanmean": (lambda z: (z - Y).square().nanmean(), mse),
    "nansum": (lambda z: (z - Y).square().nansum() / Y.numel(), mse),
    "pow(tensor)": (lambda z: (z - Y).pow(torch.tensor(2.0)).mean(), mse),
    "pow(int tensor)": (lambda z: torch.pow(z - Y, torch.full((1,), 2)).mean(), mse),
    "einsum ij,ij->": (lambda z: torch.einsum("ij,ij->", z - Y, z - Y) / Y.numel(), mse),
    "einsum of one": (lambda z: torch.einsum("ij,ij->", (r := z - Y), r) / Y.numel(), mse),
    "einsum i,i->": (lambda z: torch.einsum("i,i->", (r := (z - Y).ravel()), r) / 30, mse),
    "r.T @ r": (lambda z: ((r := (z - Y).reshape(-1, 1)).T @ r).sum() / r.numel(), mse),
    "trace of r.T @ r": (lambda z: torch.trace((r := z - Y).T @ r) / r.numel(), mse),
    "r.mv": (lambda z: ((r := (z - Y).reshape(-1, 1)).T.mv(r[:, 0])).sum() / 30, mse),
    "inner": (lambda z: torch.inner((r := (z - Y).ravel()), r) / 30, mse),
    "vdot": (lambda z: torch.vdot((r := (z - Y).ravel()), r) / 30, mse),
    "two residuals": (lambda z: ((z - Y) * (z - Y)).mean(), mse),
    "abs squared": (lambda z: (z - Y).abs().pow(2).mean(), mse),
    "exp of twice the log": (lambda z: (2 * ((z - Y).abs() + 1e-30).log()).exp().mean(), mse),
    "float power": (lambda z: torch.float_power(z - Y, 2).mean(), mse),
    "squares expanded": (lambda z: (z * z - 2 * z * Y + Y * Y).mean(), mse),
    "addcmul": (lambda z: torch.addcmul(torch.zeros(()), (r := z - Y), r).mean(), mse),
    "dist squared": (lambda z: torch.dist(z, Y) ** 2 / 30, mse),
    "variance": (lambda z: (z - Y).var(), lambda z: (z - Y).var(unbiased=True)),
    "standard deviation": (lambda z: (z - Y).std(), lambda z: (z - Y).var()),
    "pairwise_distance squared": (
        lambda z: functional.pairwise_distance(z, Y, eps=0).square().mean() / 3,
        mse,
    ),
    "pairwise_distance": (
        lambda z: functional.pairwise_distance(z, Y).mean(),
        lambda z: (z - Y).norm(dim=1).mean(),
    ),
    "norms times themselves": (lambda z: ((n := (z - Y).norm(dim=1)) * n).mean() / 3, mse),
    "roots squared": (lambda z: ((z - Y).square().sum(1) + 1e-3).sqrt().square().mean() / 3, mse),
    "dist times itself": (lambda z: (d := torch.dist(z, Y)) * d / 30, mse),
    "variance of each output": (lambda z: (z - Y).var(0).sum(), lambda z: (z - Y).var(0).sum()),
    "variance of each sample": (lambda z: (z - Y).var(1).sum(), lambda z: (z - Y).var(1).sum()),
    "deviations squared": (
        lambda z: (z - Y).std(0).square().sum(),
        lambda z: (z - Y).var(0).sum(),
    ),
    "variance and mean": (lambda z: torch.var_mean(z - Y)[0], lambda z: (z - Y).var()),
    "squares about the mean": (
        lambda z: ((r := z - Y) - r.mean(0)).square().sum() / 9,
        lambda z: (z - Y).var(0).sum(),
    ),
    "trace of a covariance": (
        lambda z: torch.cov((z - Y).T).trace(),
        lambda z: (z - Y).var(0).sum(),
    ),
    "softmax across samples": (_across, _across),
    "RMSE": (lambda z: mse(z).sqrt(), mse),
    "RMSE with epsilon": (lambda z: (mse(z) + 1e-12).sqrt(), mse),
    "RMSE by a power": (lambda z: mse(z) ** 0.5, mse),
    "norm": (lambda z: (z - Y).norm(), mse),
    "relative L2": (lambda z: (z - Y).norm() / Y.norm(), mse),
    "relative L2 by sample": (lambda z: ((z - Y).norm(dim=1) / Y.norm(dim=1)).mean(), mse),
    "log of MSE": (lambda z: mse(z).log(), mse),
    "log of MSE plus one": (lambda z: mse(z).log1p(), mse),
    "PSNR": (lambda z: 10 * torch.log10(mse(z)), mse),
    "exp of MSE": (lambda z: mse(z).exp() - 1, mse),
    "square of MSE": (lambda z: mse(z) ** 2, mse),
    "quotient of sums": (lambda z: (z - Y).square().sum() / (z.square().sum() + 1), mse),
    "product of two": (lambda z: mse(z) * (1 + mse(z)), mse),
    "Huber": (huber, huber),
    "Huber by hand": (_huber_by_hand, huber),
    "log-cosh": (lambda z: (z - Y).cosh().log().mean(), mse),
    "log-cosh by softplus": (
        lambda z: ((r := z - Y) + functional.softplus(-2 * r) - 0.6931471805599453).mean(),
        mse,
    ),
    "L4": (lambda z: (z - Y).pow(4).mean(), lambda z: (z - Y).pow(4).mean()),
    "L4 as squares": (lambda z: (z - Y).square().square().mean(), lambda z: (z - Y).pow(4).mean()),
    "L1.5": (_power, mse),
    "L1": (lambda z: functional.l1_loss(z, Y), lambda z: functional.l1_loss(z, Y)),
    "Charbonnier": (lambda z: ((z - Y).square() + 1e-6).sqrt().mean() - 1e-3, mse),
    "Cauchy": (lambda z: torch.log1p((z - Y).square() / 0.1).mean(), mse),
    "cross-entropy by gather": (_gather, ce),
    "cross-entropy by logsumexp": (_logsumexp, ce),
    "cross-entropy by softmax": (_softmax, ce),
    "cross-entropy by exponentials": (_exponentials, ce),
    "cross-entropy over pixels": (
        lambda z: functional.cross_entropy(z.T[None], CLASSES[None]),
        ce,
    ),
    "nll over pixels": (
        lambda z: functional.nll_loss(z.T[None, :, :, None].log_softmax(1), CLASSES[None, :, None]),
        ce,
    ),
    "perplexity": (lambda z: ce(z).exp(), lambda z: ce(z).exp()),
    "KL divergence": (_evidence, _evidence),
    "focal": (_focal, _focal),
    "BCE of a sigmoid": (
        lambda z: functional.binary_cross_entropy(z.sigmoid(), (SIGNS > 0).double()),
        bce,
    ),
    "BCE by logsigmoid": (lambda z: -functional.logsigmoid(SIGNS * z).mean(), bce),
    "BCE by softplus": (lambda z: functional.softplus(-SIGNS * z).mean(), bce),
    "BCE by log1p": (lambda z: torch.log1p((-SIGNS * z).exp()).mean(), bce),
    "soft margin": (lambda z: functional.soft_margin_loss(z, SIGNS), bce),
    "multilabel soft margin": (_multilabel, bce),
    "exponential loss": (lambda z: (-SIGNS * z).exp().mean(), bce),
    "squared hinge": (_hinge, _hinge),
    "Poisson": (lambda z: functional.poisson_nll_loss(z, COUNTS), _poisson),
    "Poisson by hand": (_poisson, _poisson),
    "Gaussian NLL": (_gaussian, _gaussian),
    "Gaussian NLL of a softplus": (_gaussian_softplus, _gaussian_softplus),
    "gaussian_nll_loss": (_gaussian_nll, _gaussian),
    "InfoNCE": (_contrast, _contrast),
}
"""(spelling, what it is compared with: the same function, or one that is least where it is)."""

BELOW = {"exp of MSE", "square of MSE", "product of two", "perplexity", "quotient of sums"}
"""Functions of sums that are not concave: their own second derivative is left out, and the
Gauss-Newton matrix of what is inside is no upper bound."""

INNER = {"L4 as squares", "InfoNCE"}
"""Convex functions of something that is not linear in the outputs."""
