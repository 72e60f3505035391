"""torchdiffeq: a neural ordinary differential equation, fitted to a spiral.

``python -m examples.clients.torchdiffeq_ode`` trains with RegNewton, and with RMSprop at 1e-3, as
torchdiffeq's own example does, for as long. It takes ``odeint``, because ``odeint_adjoint`` cannot
be differentiated twice through its solver. Every layer is used at many times, so that the rows of
the Jacobian are not read: steps are solved by products, each of which costs some evaluations.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from torch_newton import RegNewton


class Field(nn.Module):
    """dy/dt = f(y^3), as in torchdiffeq's example."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y**3)


def spiral() -> tuple[Tensor, Tensor]:
    """Times, and the solution of dy/dt = A y^3 there."""
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    t = torch.linspace(0.0, 3.0, 31)
    with torch.no_grad():
        y = odeint(lambda _, y: y**3 @ A, torch.tensor([[2.0, 0.0]]), t, method="rk4")
    return t, y


def loss_of(field: Field, t: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of short pieces: from each point of the spiral five times ahead."""
    pieces = odeint(field, y[:-5, 0], t[:6], method="rk4")
    targets = torch.stack([y[i : len(y) - 5 + i, 0] for i in range(6)])
    return nn.functional.mse_loss(pieces, targets)


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """Final loss, and seconds."""
    torch.manual_seed(seed)
    field, (t, y), begin = Field(), spiral(), time.perf_counter()
    optimizer = RegNewton(field.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(field, t, y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return float(loss_of(field, t, y).detach()), time.perf_counter() - begin


def train_default(seconds: float, seed: int = 0) -> float:
    """What RMSprop comes to."""
    torch.manual_seed(seed)
    field, (t, y), end = Field(), spiral(), time.perf_counter() + seconds
    optimizer = torch.optim.RMSprop(field.parameters(), lr=1e-3)
    while time.perf_counter() < end:
        optimizer.zero_grad()
        loss_of(field, t, y).backward()
        optimizer.step()
    return float(loss_of(field, t, y).detach())


if __name__ == "__main__":
    for seed in range(3):
        loss, seconds = train_newton(50, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {loss:.2e}, RMSprop {default:.2e}")
