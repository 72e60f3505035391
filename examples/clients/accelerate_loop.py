"""accelerate: ``accelerator.prepare`` as ever, and a closure with ``accelerator.backward``.

``python -m examples.clients.accelerate_loop`` fits a wave with RegNewton, and with AdamW for
as long.
"""

from __future__ import annotations

import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from torch_newton import RegNewton


def problem(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    )
    x = torch.linspace(-1, 1, 200)[:, None]
    return model, x, torch.sin(3 * math.pi * x) * torch.exp(-x)


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """Final loss, and seconds."""
    accelerator, begin = Accelerator(cpu=True), time.perf_counter()
    model, x, y = problem(seed)
    model, optimizer = accelerator.prepare(model, RegNewton(model.parameters()))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        accelerator.backward(loss)
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        if optimizer.optimizer.last_step.converged:
            break
    return float(closure().detach()), time.perf_counter() - begin


def train_default(seconds: float, seed: int = 0) -> float:
    """The loss that AdamW comes to, with its learning rate of 1e-3."""
    accelerator, end = Accelerator(cpu=True), time.perf_counter() + seconds
    model, x, y = problem(seed)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    while time.perf_counter() < end:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
    return float(nn.functional.mse_loss(model(x), y).detach())


if __name__ == "__main__":
    for seed in range(3):
        loss, seconds = train_newton(100, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {loss:.2e}, AdamW {default:.2e}")
