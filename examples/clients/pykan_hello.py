"""pykan's hello world: a Kolmogorov-Arnold network of width [2, 5, 1].

``python -m examples.clients.pykan_hello`` fits exp(sin(pi x) + y^2) with RegNewton, and for as long
with pykan's own L-BFGS, the optimizer of ``model.fit``. The grid is updated from the samples in the
first steps of both.

``model.fit`` makes its optimizer from a name, so that RegNewton takes a loop of one's own.
"""

from __future__ import annotations

import contextlib

import torch
from kan import KAN, create_dataset
from torch import Tensor

from torch_newton import RegNewton

from .clock import Clock, TimeUpError

GRID_UPDATES = 10
"""Of pykan's ``fit``: its default, in the first fifty steps."""


def problem(seed: int) -> tuple[KAN, dict[str, Tensor]]:
    def f(x: Tensor) -> Tensor:
        return torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)

    model = KAN(width=[2, 5, 1], grid=5, k=3, seed=seed, auto_save=False)
    return model, create_dataset(f, n_var=2, seed=seed)


def error_of(model: KAN, data: dict[str, Tensor]) -> float:
    """Mean squared error of the points that were not trained on."""
    with torch.no_grad():
        return float((model(data["test_input"]) - data["test_label"]).square().mean())


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """The error of the test points, and processor seconds."""
    (model, data), clock = problem(seed), Clock()
    x, y = data["train_input"], data["train_label"]
    optimizer = RegNewton(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    for step in range(steps):
        if step < GRID_UPDATES:
            model.update_grid_from_samples(x)
        optimizer.step(closure)
        if optimizer.last_step is not None and optimizer.last_step.converged:
            break
    return error_of(model, data), clock.seconds


def train_default(seconds: float, seed: int = 0) -> float:
    """The error that L-BFGS comes to, each of whose steps is of twenty iterations or fewer."""
    (model, data), clock = problem(seed), Clock(seconds)

    def stop() -> Tensor:
        clock.check()
        return torch.zeros(())

    with contextlib.suppress(TimeUpError):
        model.fit(data, opt="LBFGS", steps=10**5, metrics=(stop,))
    return error_of(model, data)


if __name__ == "__main__":
    for seed in range(3):
        found, seconds = train_newton(40, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {found:.2e}, L-BFGS {default:.2e}")
