"""Ignite, whose ``create_supervised_trainer`` calls ``optimizer.step()`` without a closure.

``python -m examples.clients.ignite_engine`` fits a wave with RegNewton and with Adam for as long.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from torch import Tensor, nn

from torch_newton import RegNewton


def newton_trainer(model: nn.Module, optimizer: RegNewton, loss_fn: Any) -> Engine:
    """What `create_supervised_trainer` makes, with a closure."""

    def update(engine: Engine, batch: tuple[Tensor, Tensor]) -> float:
        x, y = batch

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            return loss

        model.train()
        return float(optimizer.step(closure).detach())

    trainer = Engine(update)

    @trainer.on(Events.ITERATION_COMPLETED)
    def stop_at_rest(engine: Engine) -> None:
        if optimizer.last_step is not None and optimizer.last_step.converged:
            engine.terminate()

    return trainer


def problem(seed: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    )
    x = torch.linspace(-1, 1, 200)[:, None]
    return model, [(x, torch.sin(3 * math.pi * x) * torch.exp(-x))]


def loss_of(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    ((x, y),) = data
    return float(nn.functional.mse_loss(model(x), y).detach())


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """Final loss, and seconds."""
    (model, data), begin = problem(seed), time.perf_counter()
    trainer = newton_trainer(model, RegNewton(model.parameters()), nn.functional.mse_loss)
    trainer.run(data, max_epochs=steps)
    return loss_of(model, data), time.perf_counter() - begin


def train_default(seconds: float, seed: int = 0) -> float:
    """The loss that Adam comes to, with a learning rate of 1e-3."""
    model, data = problem(seed)
    adam = torch.optim.Adam(model.parameters())
    trainer, end = (
        create_supervised_trainer(model, adam, nn.functional.mse_loss),
        time.perf_counter() + seconds,
    )

    @trainer.on(Events.ITERATION_COMPLETED)
    def stop(engine: Engine) -> None:
        if time.perf_counter() > end:
            engine.terminate()

    trainer.run(data, max_epochs=10**6)
    return loss_of(model, data)


if __name__ == "__main__":
    for seed in range(3):
        loss, seconds = train_newton(100, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {loss:.2e}, Adam {default:.2e}")
