"""GPyTorch's exact Gaussian process: hyperparameters by Newton's method.

``python -m examples.clients.gpytorch_exact`` maximises the marginal likelihood of noisy waves with
RegNewton, and with Adam at 0.1, as GPyTorch's tutorials do, for as long.

The solver by which GPyTorch takes the likelihood has a wrong second derivative; RegNewton finds
that out, says so once, and takes products by differences of gradients.
"""

from __future__ import annotations

import math
import time

import gpytorch
import torch
from torch import Tensor

from torch_newton import RegNewton


class Process(gpytorch.models.ExactGP):
    def __init__(self, x: Tensor, y: Tensor, likelihood: gpytorch.likelihoods.Likelihood) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def problem(seed: int) -> tuple[Process, gpytorch.mlls.ExactMarginalLogLikelihood, Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.linspace(0, 1, 100, dtype=torch.float64)
    y = torch.sin(6 * math.pi * x) + 0.2 * torch.randn(len(x), dtype=torch.float64)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = Process(x, y, likelihood).double()
    model.train()
    likelihood.train()
    return model, gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model), x, y


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """The negative marginal log likelihood at the end, and seconds."""
    (model, likelihood, x, y), begin = problem(seed), time.perf_counter()
    optimizer = RegNewton(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -likelihood(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        if optimizer.last_step is not None and optimizer.last_step.converged:
            break
    return float(closure().detach()), time.perf_counter() - begin


def train_default(seconds: float, seed: int = 0) -> float:
    """What Adam comes to."""
    (model, likelihood, x, y), end = problem(seed), time.perf_counter() + seconds
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    while time.perf_counter() < end:
        adam.zero_grad()
        loss = -likelihood(model(x), y)
        loss.backward()
        adam.step()
    return float(-likelihood(model(x), y).detach())


if __name__ == "__main__":
    for seed in range(3):
        loss, seconds = train_newton(60, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {loss:.9f}, Adam {default:.9f}")
