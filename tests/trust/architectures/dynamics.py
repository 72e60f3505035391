"""Solvers of differential equations that are unrolled, and networks of energies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.helpers import randn
from tests.trust.architectures.build import fit
from tests.trust.architectures.case import Case, Problem

Field = Callable[[Tensor], Tensor]


def euler(f: Field, x: Tensor, h: Tensor) -> Tensor:
    return x + h * f(x)


def midpoint(f: Field, x: Tensor, h: Tensor) -> Tensor:
    return x + h * f(x + h / 2 * f(x))


def runge_kutta(f: Field, x: Tensor, h: Tensor) -> Tensor:
    a = f(x)
    b = f(x + h / 2 * a)
    c = f(x + h / 2 * b)
    return x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c))


def implicit(f: Field, x: Tensor, h: Tensor) -> Tensor:
    """Implicit Euler by fixed-point iterations."""
    y = x
    for _ in range(4):
        y = x + h * f(y)
    return y


class Flow(nn.Module):
    """A network as a vector field, integrated over eight steps of a learned length."""

    def __init__(
        self, step: Callable[[Field, Tensor, Tensor], Tensor], every: bool = False
    ) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        self.h, self.step, self.every = nn.Parameter(torch.tensor(0.1)), step, every

    def forward(self, x: Tensor) -> Tensor:
        path = [x]
        for _ in range(8):
            path.append(self.step(self.field, path[-1], self.h))
        return torch.stack(path[1:]) if self.every else path[-1]


class Hamiltonian(nn.Module):
    """The flow of an energy: its gradient is taken in the forward pass."""

    def __init__(self, leapfrog: bool) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
        self.leapfrog = leapfrog

    def slope(self, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.clone().requires_grad_()
        (g,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return g

    def forward(self, x: Tensor) -> Tensor:
        if not self.leapfrog:
            g = self.slope(x)
            return torch.stack([g[:, 1], -g[:, 0]], 1)
        for _ in range(3):
            x = x + 0.1 * torch.stack([torch.zeros(len(x)).to(x), -self.slope(x)[:, 0]], 1)
            x = x + 0.1 * torch.stack([self.slope(x)[:, 1], torch.zeros(len(x)).to(x)], 1)
        return x


class Lagrangian(nn.Module):
    """The acceleration that follows from a network as Lagrangian, by its second derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Softplus(), nn.Linear(5, 1))

    def acceleration(self, x: Tensor) -> Tensor:
        def lagrangian(q: Tensor, v: Tensor) -> Tensor:
            return v**2 + 0.1 * self.net(torch.stack([q, v]))[0]

        q, v = x
        force = torch.func.grad(lagrangian)(q, v)
        mass = torch.func.grad(torch.func.grad(lagrangian, 1), 1)(q, v)
        mixed = torch.func.grad(torch.func.grad(lagrangian, 1))(q, v)
        return (force - mixed * v) / mass

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.acceleration(row) for row in x])


class Equilibrium(nn.Module):
    """A fixed point, by twenty iterations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(3, 3), nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros(len(x), 3).to(x)
        for _ in range(20):
            z = torch.tanh(0.5 * self.inner(z) + self.outer(x))
        return self.head(z)


class Koopman(nn.Module):
    """A linear map of learned features, applied several times."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.K, self.decode = (
            nn.Linear(2, 4),
            nn.Linear(4, 4, bias=False),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        z, found = torch.tanh(self.encode(x)), []
        for _ in range(3):
            z = self.K(z)
            found.append(self.decode(z))
        return torch.stack(found)


class Exponential(nn.Module):
    """The linear flow exp(A) x."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(0.5 * torch.randn(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.linalg.matrix_exp(self.A).T


class Oscillator(nn.Module):
    """Two physical constants of an equation, found from its solution."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.c = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        h, path = torch.tensor(0.2), []
        for _ in range(5):
            x = runge_kutta(
                lambda s: torch.stack([s[:, 1], -self.k * s[:, 0] - self.c * s[:, 1]], 1), x, h
            )
            path.append(x[:, 0])
        return torch.stack(path)


class Controlled(nn.Module):
    """A controlled differential equation along a path."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.head = nn.Linear(2, 4), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros(len(x), 2).to(x)
        for t in range(1, x.shape[1]):
            matrix = torch.tanh(self.field(z)).view(-1, 2, 2)
            z = z + (matrix @ (x[:, t] - x[:, t - 1])[..., None])[..., 0]
        return self.head(z)


def of(module: nn.Module) -> Problem:
    return fit(module, randn(6, 2, seed=2))


CASES = [
    Case("Euler", lambda: of(Flow(euler)), quick=True),
    Case("Euler, whole path", lambda: of(Flow(euler, every=True))),
    Case("midpoint rule", lambda: of(Flow(midpoint))),
    Case("Runge-Kutta", lambda: of(Flow(runge_kutta))),
    Case("implicit Euler", lambda: of(Flow(implicit))),
    Case("Hamiltonian network", lambda: of(Hamiltonian(False))),
    Case("Hamiltonian network, leapfrog", lambda: of(Hamiltonian(True))),
    Case("Lagrangian network", lambda: of(Lagrangian())),
    Case("equilibrium model", lambda: of(Equilibrium())),
    Case("Koopman operator", lambda: of(Koopman())),
    Case("matrix exponential", lambda: of(Exponential())),
    Case("constants of an oscillator", lambda: of(Oscillator())),
    Case("controlled equation", lambda: fit(Controlled(), randn(5, 4, 2, seed=2))),
]
