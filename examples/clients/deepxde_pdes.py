"""DeepXDE's own examples: Poisson on an L, diffusion, and a physics-informed DeepONet.

``python -m examples.clients.deepxde_pdes`` trains each in DeepXDE's default single precision with
RegNewton, and for as long with L-BFGS, which DeepXDE's examples finish with. One line differs:
``model.compile(RegNewton(net.parameters()))``.

In the DeepONet's loss each function's branch is shared by all of its points, over which DeepXDE
differentiates: those parameters' rows cannot be read off the graph, and the steps are solved by
conjugate gradients with what is known of the trunk, at four processor seconds a step.
"""

from __future__ import annotations

import math
import os
from typing import Any

os.environ.setdefault("DDE_BACKEND", "pytorch")

import deepxde as dde
import numpy as np
import torch
from torch import Tensor

from torch_newton import RegNewton

from .clock import Clock


def poisson() -> tuple[dde.data.Data, Any]:
    """-u'' = 1 on an L, as Poisson_Lshape.py."""

    def equation(x: Tensor, u: Tensor) -> Tensor:
        return -dde.grad.hessian(u, x, i=0, j=0) - dde.grad.hessian(u, x, i=1, j=1) - 1

    corners = [[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]]
    shape = dde.geometry.Polygon(corners)
    boundary = dde.icbc.DirichletBC(shape, lambda x: 0, lambda _, on: on)
    data = dde.data.PDE(shape, equation, boundary, num_domain=1200, num_boundary=120)
    return data, dde.nn.FNN([2] + [50] * 4 + [1], "tanh", "Glorot uniform")


def diffusion() -> tuple[dde.data.Data, Any]:
    """u_t = u_xx - exp(-t) (1 - pi^2) sin(pi x), as diffusion_1d.py."""

    def equation(x: Tensor, u: Tensor) -> Tensor:
        du_t = dde.grad.jacobian(u, x, i=0, j=1)
        source = torch.exp(-x[:, 1:]) * (1 - math.pi**2) * torch.sin(math.pi * x[:, :1])
        return du_t - dde.grad.hessian(u, x, i=0, j=0) + source

    def exact(x: np.ndarray) -> np.ndarray:
        return np.sin(np.pi * x[:, :1]) * np.exp(-x[:, 1:])

    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
    conditions = [
        dde.icbc.DirichletBC(domain, exact, lambda _, on: on),
        dde.icbc.IC(domain, exact, lambda _, on: on),
    ]
    data = dde.data.TimePDE(
        domain, equation, conditions, num_domain=40, num_boundary=20, num_initial=10
    )
    return data, dde.nn.FNN([2] + [32] * 3 + [1], "tanh", "Glorot uniform")


def operator(functions: int = 100) -> tuple[dde.data.Data, Any]:
    """-u'' = f for cubic polynomials f, as poisson_1d_pideeponet.py."""

    def equation(x: Tensor, u: Tensor, f: Tensor) -> Tensor:
        return -dde.grad.hessian(u, x) - f

    line = dde.geometry.Interval(0, 1)
    boundary = dde.icbc.DirichletBC(line, lambda _: 0, lambda _, on: on)
    pde = dde.data.PDE(line, equation, boundary, num_domain=100, num_boundary=2)
    points = line.uniform_points(10, boundary=True)
    polynomials = dde.data.PowerSeries(N=4)
    data = dde.data.PDEOperatorCartesianProd(pde, polynomials, points, num_function=functions)
    layers = [10, 32, 32], [1, 32, 32]
    return data, dde.nn.DeepONetCartesianProd(*layers, "tanh", "Glorot normal")


PROBLEMS = {"poisson": poisson, "diffusion": diffusion, "operator": operator}


class Stop(dde.callbacks.Callback):
    """Ends training when the time is up, or nothing is gained any more."""

    def __init__(self, seconds: float = math.inf, optimizer: RegNewton | None = None) -> None:
        super().__init__()
        self.clock, self.optimizer = Clock(seconds), optimizer

    def on_epoch_end(self) -> None:
        last = None if self.optimizer is None else self.optimizer.last_step
        if self.clock.up or (last is not None and last.converged):
            self.model.stop_training = True


def loss_of(model: dde.Model) -> float:
    state = model.train_state
    state.set_data_train(*model.data.train_next_batch(model.batch_size))
    data = state.X_train, state.y_train, state.train_aux_vars
    return float(np.sum(model._outputs_losses(True, *data)[1]))


def train_newton(steps: int, seed: int = 0, name: str = "diffusion") -> tuple[float, float]:
    """The loss, and processor seconds."""
    dde.config.set_random_seed(seed)
    data, net = PROBLEMS[name]()
    model, optimizer = dde.Model(data, net), RegNewton(net.parameters())
    stop = Stop(optimizer=optimizer)
    model.compile(optimizer, verbose=0)
    model.train(iterations=steps, display_every=10**6, callbacks=[stop], verbose=0)
    return loss_of(model), stop.clock.seconds


def train_default(seconds: float, seed: int = 0, name: str = "diffusion") -> float:
    """The loss that L-BFGS comes to."""
    dde.config.set_random_seed(seed)
    data, net = PROBLEMS[name]()
    model = dde.Model(data, net)
    dde.optimizers.set_LBFGS_options(maxiter=10**7)
    # Else it looks at the time after a thousand iterations only.
    dde.optimizers.config.LBFGS_options.update(iter_per_step=20, fun_per_step=25)
    model.compile("L-BFGS", verbose=0)
    model.train(display_every=10**6, callbacks=[Stop(seconds)], verbose=0)
    return loss_of(model)


if __name__ == "__main__":
    for name, steps in (("diffusion", 60), ("poisson", 30), ("operator", 20)):
        for seed in range(3):
            found, seconds = train_newton(steps, seed, name)
            default = train_default(seconds, seed, name)
            print(f"{name}, seed {seed}, {seconds:.1f} s each: {found:.2e}, L-BFGS {default:.2e}")
