"""Losses through factorisations, determinants and likelihoods of hidden variables."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from tests.helpers import mlp, randn
from tests.trust.architectures.build import fit, free, trained
from tests.trust.architectures.case import Case, Problem

X, Y = torch.linspace(0, 3, 8).to(torch.float64), randn(8, seed=3)


def gaussian_process(how: str) -> Problem:
    """Minus the log marginal likelihood, in logarithms of length, size and noise."""
    theta = torch.tensor([0.0, 0.0, -1.0])

    def loss() -> Tensor:
        length, size, noise = theta.exp()
        K = size * torch.exp(-((X[:, None] - X) ** 2) / (2 * length**2)) + noise * torch.eye(8)
        if how == "cholesky":
            L = torch.linalg.cholesky(K)
            a = torch.cholesky_solve(Y[:, None], L)[:, 0]
            return 0.5 * Y @ a + L.diagonal().log().sum()
        if how == "solve":
            return 0.5 * Y @ torch.linalg.solve(K, Y) + 0.5 * torch.linalg.slogdet(K)[1]
        return -MultivariateNormal(torch.zeros(8), K).log_prob(Y)

    return free([theta], loss)


def deep_kernel() -> Problem:
    """A Gaussian process on features that a network makes."""
    net, s = mlp(1, 4, 2), nn.Parameter(torch.tensor(-1.0))

    def loss() -> Tensor:
        z = net(X[:, None])
        K = torch.exp(-(z[:, None] - z).square().sum(2)) + s.exp() * torch.eye(8)
        L = torch.linalg.cholesky(K)
        a = torch.linalg.solve_triangular(L, Y[:, None], upper=False)
        return 0.5 * a.square().sum() + L.diagonal().log().sum()

    return Problem([s, *trained(net)], loss, net)


def affine_flow() -> Problem:
    """The likelihood of a linear map's determinant."""
    A, b, x = torch.eye(2) + 0.1 * randn(2, 2), torch.zeros(2), 2 * randn(8, 2, seed=2)

    def loss() -> Tensor:
        z = x @ A.T + b
        return 0.5 * z.square().sum(1).mean() - torch.linalg.slogdet(A)[1]

    return free([A, b], loss)


def planar_flow() -> Problem:
    u, w, b, x = randn(2), randn(2, seed=1), torch.zeros(1), randn(8, 2, seed=2)

    def loss() -> Tensor:
        h = torch.tanh(x @ w + b)
        z = x + u * h[:, None]
        determinant = 1 + (1 - h**2) * (u @ w)
        return 0.5 * z.square().sum(1).mean() - determinant.abs().log().mean()

    return free([u, w, b], loss)


def coupling_flow() -> Problem:
    """A scale and a shift of one half that follow from the other."""
    net, x = mlp(1, 4, 2), randn(8, 2, seed=2)

    def loss() -> Tensor:
        s, t = net(x[:, :1]).chunk(2, 1)
        z = torch.cat([x[:, :1], x[:, 1:] * torch.tanh(s).exp() + t], 1)
        return 0.5 * z.square().sum(1).mean() - torch.tanh(s).mean()

    return Problem(trained(net), loss, net)


def covariance() -> Problem:
    """A Gaussian's mean and Cholesky factor."""
    mean, L, x = torch.zeros(2), torch.eye(2), randn(8, 2, seed=2)

    def loss() -> Tensor:
        factor = L.tril(-1) + torch.diag(torch.nn.functional.softplus(L.diagonal()))
        return -MultivariateNormal(mean, scale_tril=factor).log_prob(x).mean()

    return free([mean, L], loss)


def gaussian_mixture() -> Problem:
    means, logs, weights, x = randn(2, 2), torch.zeros(2, 2), torch.zeros(2), randn(12, 2, seed=2)

    def loss() -> Tensor:
        z = (x[:, None] - means) * (-logs).exp()
        density = -0.5 * z.square().sum(2) - logs.sum(1) + weights.log_softmax(0)
        return -density.logsumexp(1).mean() + 0.1 * logs.square().sum()

    return free([means, logs, weights], loss)


def hidden_markov() -> Problem:
    """The forward algorithm, in logarithms."""
    moves, emissions = 0.1 * randn(2, 2), randn(2, 3, seed=1)
    seen = torch.arange(10) % 3

    def loss() -> Tensor:
        A, B = moves.log_softmax(1), emissions.log_softmax(1)
        a = B[:, seen[0]] - math.log(2)
        for symbol in seen[1:]:
            a = torch.logsumexp(a[:, None] + A, 0) + B[:, symbol]
        return -a.logsumexp(0) / 10

    return free([moves, emissions], loss)


def kalman() -> Problem:
    """The likelihood of a random walk seen with noise."""
    logs = torch.zeros(2)

    def loss() -> Tensor:
        q, r = logs.exp()
        mean, variance, total = torch.zeros(()), torch.ones(()), torch.zeros(())
        for y in Y:
            variance = variance + q
            error, size = y - mean, variance + r
            total = total + 0.5 * (size.log() + error**2 / size)
            gain = variance / size
            mean, variance = mean + gain * error, (1 - gain) * variance
        return total

    return free([logs], loss)


def eigenvalues() -> Problem:
    """A matrix fitted by its spectrum."""
    A, target = randn(4, 4), torch.tensor([-2.0, 0.0, 1.0, 3.0])
    return free([A], lambda: (torch.linalg.eigvalsh(A + A.T) - target).square().mean())


def rayleigh() -> Problem:
    v, A = randn(5), randn(5, 5, seed=1)
    return free([v], lambda: v @ (A + A.T) @ v / (v @ v))


def factor_analysis() -> Problem:
    W, logs, x = randn(4, 2), torch.zeros(4), randn(20, 4, seed=2)
    S = x.T @ x / 20

    def loss() -> Tensor:
        C = W @ W.T + torch.diag(logs.exp())
        return torch.linalg.slogdet(C)[1] + torch.linalg.solve(C, S).trace()

    return free([W, logs], loss)


class Cayley(nn.Module):
    """A rotation (I - A)^-1 (I + A) of a skew A."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(0.3 * torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        skew, eye = self.A - self.A.T, torch.eye(3).to(x)
        return x @ torch.linalg.solve(eye - skew, eye + skew)


class Inverse(nn.Module):
    """A ridge regression within the forward pass, on learned features."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.ridge = nn.Linear(3, 3), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.features(x))
        gram = z[:5].T @ z[:5] + self.ridge.exp() * torch.eye(3).to(x)
        return z[5:] @ torch.linalg.inv(gram) @ z[:5].T @ x[:5, 0]


class Singular(nn.Module):
    """The largest singular value divides a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(3, 3)), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x @ self.weight / torch.linalg.svdvals(self.weight)[0]))


CASES = [
    *(
        Case(
            f"Gaussian process, {how}",
            lambda how=how: gaussian_process(how),
            path=None,
            quick=how == "cholesky",
        )
        for how in ("cholesky", "solve", "MultivariateNormal")
    ),
    Case("deep kernel", deep_kernel, path=None),
    Case("affine flow", affine_flow, path=None),
    Case("planar flow", planar_flow, path=None),
    Case("coupling flow", coupling_flow, path=None),
    Case("covariance", covariance, path=None),
    Case("Gaussian mixture", gaussian_mixture, path=None),
    Case("hidden Markov model", hidden_markov, path=None),
    Case("Kalman filter", kalman, path=None),
    Case("eigenvalues", eigenvalues),
    Case("Rayleigh quotient", rayleigh, path=None),
    Case("factor analysis", factor_analysis, path=None),
    Case("Cayley transform", lambda: fit(Cayley(), randn(8, 3, seed=2))),
    Case("ridge regression within", lambda: fit(Inverse(), randn(12, 3, seed=2))),
    Case("largest singular value", lambda: fit(Singular(), randn(8, 3, seed=2))),
]
