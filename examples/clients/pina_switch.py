"""PINA: ten epochs of Adam, then RegNewton by PINA's own ``SwitchOptimizer``.

``python -m examples.clients.pina_switch`` solves a Poisson equation so, and with Adam at 1e-3,
PINA's default, for as long. What differs is the callback: ``SwitchOptimizer(TorchOptimizer(
RegNewton), epoch_switch=10)``.
"""

from __future__ import annotations

import logging
import math
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from pina import Condition, LabelTensor, Trainer
from pina.callback import SwitchOptimizer
from pina.domain import CartesianDomain
from pina.equation import Equation, FixedValue
from pina.model import FeedForward
from pina.operator import laplacian
from pina.optim import TorchOptimizer
from pina.problem import SpatialProblem
from pina.solver import PINN
from torch import Tensor

from torch_newton import RegNewton

from .clock import Clock

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
ADAM_EPOCHS = 10


def equation(x: LabelTensor, u: LabelTensor) -> Tensor:
    source = torch.sin(math.pi * x.extract(["x"])) * torch.sin(math.pi * x.extract(["y"]))
    return laplacian(u, x, components=["u"], d=["x", "y"]) + 2 * math.pi**2 * source


class Poisson(SpatialProblem):
    output_variables: ClassVar = ["u"]
    spatial_domain = CartesianDomain({"x": [0, 1], "y": [0, 1]})
    domains: ClassVar = {
        "inside": spatial_domain,
        "left": CartesianDomain({"x": 0, "y": [0, 1]}),
        "right": CartesianDomain({"x": 1, "y": [0, 1]}),
        "below": CartesianDomain({"x": [0, 1], "y": 0}),
        "above": CartesianDomain({"x": [0, 1], "y": 1}),
    }
    conditions: ClassVar = {
        "inside": Condition(domain="inside", equation=Equation(equation)),
        **{
            side: Condition(domain=side, equation=FixedValue(0.0))
            for side in ("left", "right", "below", "above")
        },
    }


class StopAfter(Callback):
    def __init__(self, seconds: float) -> None:
        self.clock = Clock(seconds)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        trainer.should_stop |= self.clock.up


def error_of(solver: PINN) -> float:
    """Mean squared error of the solution on a grid."""
    line = torch.linspace(0, 1, 50)
    points = torch.cartesian_prod(line, line)
    with torch.no_grad():
        u = solver(LabelTensor(points, ["x", "y"])).as_subclass(Tensor)[:, 0]
    exact = torch.sin(math.pi * points[:, 0]) * torch.sin(math.pi * points[:, 1])
    return float((u - exact).square().mean())


def train(epochs: int, seed: int, callbacks: list[Callback]) -> PINN:
    torch.manual_seed(seed)
    problem = Poisson()
    problem.discretise_domain(15, "grid", domains=["inside"])
    problem.discretise_domain(30, "grid", domains=["left", "right", "below", "above"])
    net = FeedForward(2, 1, layers=[20, 20], func=torch.nn.Tanh)
    solver = PINN(problem, net)
    Trainer(
        solver, max_epochs=epochs, accelerator="cpu", callbacks=callbacks, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    ).train()  # fmt: skip
    return solver


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """The error after ten epochs of Adam and as many steps as given, and processor seconds."""
    clock = Clock()
    switch = SwitchOptimizer(TorchOptimizer(RegNewton), epoch_switch=ADAM_EPOCHS)
    solver = train(ADAM_EPOCHS + steps, seed, [switch])
    return error_of(solver), clock.seconds


def train_default(seconds: float, seed: int = 0) -> float:
    """The error that Adam comes to."""
    return error_of(train(10**6, seed, [StopAfter(seconds)]))


if __name__ == "__main__":
    for seed in range(3):
        found, seconds = train_newton(60, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {found:.2e}, Adam {default:.2e}")
