"""torchphysics, whose points are drawn anew in each step.

``python -m examples.clients.torchphysics_points`` solves a Poisson equation with RegNewton and with
Adam at 1e-3, torchphysics' default, for as long. One line differs: ``OptimizerSetting(RegNewton,
lr=1.0)``; and the points of a step must be the same at each of its evaluations, which they are:
every evaluation starts from the same random state.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import pytorch_lightning as pl
import torch
import torchphysics as tp
from torch import Tensor

from torch_newton import RegNewton

from .clock import Clock

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
X, U = tp.spaces.R2("x"), tp.spaces.R1("u")


class StopAfter(pl.Callback):
    def __init__(self, seconds: float) -> None:
        self.clock = Clock(seconds)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop |= self.clock.up


def inside(u: Tensor, x: Tensor) -> Tensor:
    source = 2 * math.pi**2 * torch.sin(math.pi * x[:, :1]) * torch.sin(math.pi * x[:, 1:])
    return tp.utils.laplacian(u, x) + source


def error_of(model: tp.models.Model) -> float:
    """Mean squared error of the solution on a grid."""
    line = torch.linspace(0, 1, 50)
    points = torch.cartesian_prod(line, line)
    with torch.no_grad():
        u = model(tp.spaces.Points(points, X)).as_tensor[:, 0]
    exact = torch.sin(math.pi * points[:, 0]) * torch.sin(math.pi * points[:, 1])
    return float((u - exact).square().mean())


def train(setting: tp.OptimizerSetting, steps: int, seconds: float, seed: int) -> float:
    torch.manual_seed(seed)
    model = tp.models.FCN(X, U, hidden=(20, 20))
    square = tp.domains.Parallelogram(X, [0, 0], [1, 0], [0, 1])
    conditions = [
        tp.conditions.PINNCondition(model, points, residual)
        for points, residual in (
            (tp.samplers.RandomUniformSampler(square, n_points=300), inside),
            (tp.samplers.RandomUniformSampler(square.boundary, n_points=100), lambda u: u),
        )
    ]
    solver = tp.solver.Solver(conditions, optimizer_setting=setting)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[StopAfter(seconds)], logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(solver)
    return error_of(model)


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """The error, and processor seconds."""
    clock = Clock()
    return train(tp.OptimizerSetting(RegNewton, lr=1.0), steps, math.inf, seed), clock.seconds


def train_default(seconds: float, seed: int = 0) -> float:
    """The error that Adam comes to."""
    return train(tp.OptimizerSetting(torch.optim.Adam, lr=1e-3), 10**6, seconds, seed)


if __name__ == "__main__":
    for seed in range(3):
        found, seconds = train_newton(60, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {found:.2e}, Adam {default:.2e}")
