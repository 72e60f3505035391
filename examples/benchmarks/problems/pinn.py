"""Physics-informed networks on equations with an exact or a reference solution.

Convection, reaction and wave are the failure modes of Krishnapriyan et al. 2021 (arXiv
2109.01050) with the coefficients of Rathore et al. 2024 (arXiv 2402.01868); Burgers is that of
Raissi et al. 2019. The error is the relative L2 error on 2,000 points that training never sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...networks import glorot
from ..problem import Problem
from .collocation import TEST_POINTS, Collocation, Condition
from .derivatives import Derivatives

PI = math.pi


def boundary_of_cube(n_per_face: int, dim: int) -> Tensor:
    """Points on the faces of [0, 1]^dim, evenly spaced for dim = 2, random above."""
    faces = []
    for axis in range(dim):
        for side in (0.0, 1.0):
            if dim == 2:
                points = torch.linspace(0, 1, n_per_face).unsqueeze(1).repeat(1, 2)
            else:
                points = torch.rand(n_per_face, dim)
            points[:, axis] = side
            faces.append(points)
    return torch.cat(faces)


def poisson_2d() -> Collocation:
    """-Laplace u = 2 pi^2 sin(pi x) sin(pi y), u = 0 on the boundary; 14 x 14 + 80 points."""

    def exact(x: Tensor) -> Tensor:
        return torch.sin(PI * x[..., 0:1]) * torch.sin(PI * x[..., 1:2])

    def equation(f: Derivatives) -> Tensor:
        return f.d(0, 0) + f.d(1, 1) + 2 * PI**2 * exact(f.x)

    axis = torch.linspace(0, 1, 16)[1:-1]
    edge = boundary_of_cube(20, 2)
    condition = Condition("value", edge, torch.zeros(len(edge), 1), weight=100.0)
    interior = torch.cartesian_prod(axis, axis)
    return Collocation(equation, interior, [condition], exact, torch.rand(TEST_POINTS, 2))


def poisson_5d() -> Collocation:
    """-Laplace u = pi^2 sum_i sin(pi x_i) on [0, 1]^5, u = sum_i sin(pi x_i); 400 + 200 points."""

    def exact(x: Tensor) -> Tensor:
        return torch.sin(PI * x).sum(-1, keepdim=True)

    def equation(f: Derivatives) -> Tensor:
        return sum(f.d(i, i) for i in range(5)) + PI**2 * exact(f.x)

    edge = boundary_of_cube(20, 5)
    condition = Condition("value", edge, exact(edge), weight=100.0)
    return Collocation(equation, torch.rand(400, 5), [condition], exact, torch.rand(TEST_POINTS, 5))


def evolution(
    equation: Callable[[Derivatives], Tensor],
    exact: Callable[[Tensor], Tensor],
    space: tuple[float, float],
    boundary: str,
    interior: int = 300,
    still: bool = False,
) -> Collocation:
    """An equation in (x, t), t in [0, 1]: initial values, and walls held or joined.

    `still`: the field also starts at rest, du/dt = 0.
    """
    low, high = space

    def draw(n: int) -> Tensor:
        return torch.rand(n, 2) * torch.tensor([high - low, 1.0]) + torch.tensor([low, 0.0])

    start = torch.stack([torch.linspace(low, high, 60), torch.zeros(60)], dim=1)
    times = torch.linspace(0, 1, 30)
    left = torch.stack([torch.full((30,), low), times], dim=1)
    right = torch.stack([torch.full((30,), high), times], dim=1)
    conditions = [Condition("value", start, exact(start), weight=100.0)]
    if boundary == "periodic":
        conditions.append(Condition("periodic", left, torch.zeros(30, 1), right, weight=100.0))
    else:
        walls = torch.cat([left, right])
        conditions.append(Condition("value", walls, exact(walls), weight=100.0))
    if still:
        conditions.append(Condition("slope", start, torch.zeros(60, 1)))
    return Collocation(equation, draw(interior), conditions, exact, draw(TEST_POINTS))


def heat() -> Collocation:
    """u_t = 0.4 u_xx on [0, 1], u = exp(-0.4 pi^2 t) sin(pi x)."""

    def exact(x: Tensor) -> Tensor:
        return torch.exp(-0.4 * PI**2 * x[..., 1:2]) * torch.sin(PI * x[..., 0:1])

    return evolution(lambda f: f.d(1) - 0.4 * f.d(0, 0), exact, (0.0, 1.0), "walls")


def convection(beta: float) -> Collocation:
    """u_t + beta u_x = 0 on the circle, u(x, 0) = sin x, u = sin(x - beta t)."""

    def exact(x: Tensor) -> Tensor:
        return torch.sin(x[..., 0:1] - beta * x[..., 1:2])

    return evolution(lambda f: f.d(1) + beta * f.d(0), exact, (0.0, 2 * PI), "periodic")


def reaction(rho: float = 5.0) -> Collocation:
    """u_t = rho u (1 - u), u = h e^(rho t) / (h e^(rho t) + 1 - h), h = exp(-8 (x - pi)^2/pi^2)."""

    def exact(x: Tensor) -> Tensor:
        h = torch.exp(-8 * (x[..., 0:1] / PI - 1) ** 2)
        grown = h * torch.exp(rho * x[..., 1:2])
        return grown / (grown + 1 - h)

    return evolution(lambda f: f.d(1) - rho * f.u * (1 - f.u), exact, (0.0, 2 * PI), "periodic")


def wave() -> Collocation:
    """u_tt = 4 u_xx, u = sin(pi x) cos(2 pi t) + sin(5 pi x) cos(10 pi t) / 2, at rest at t = 0."""

    def exact(x: Tensor) -> Tensor:
        x, t = x[..., 0:1], x[..., 1:2]
        slow = torch.sin(PI * x) * torch.cos(2 * PI * t)
        return slow + 0.5 * torch.sin(5 * PI * x) * torch.cos(10 * PI * t)

    return evolution(lambda f: f.d(1, 1) - 4 * f.d(0, 0), exact, (0.0, 1.0), "walls", still=True)


VISCOSITY = 0.01 / PI


def burgers_reference(x: Tensor) -> Tensor:
    """U of u_t + u u_x = nu u_xx, u(x, 0) = -sin(pi x), by the Cole-Hopf transformation.

    u = -int sin(pi (x - s)) w ds / int w ds,
    log w = -cos(pi (x - s)) / (2 pi nu) - s^2 / (4 nu t);
    Basdevant et al., Comput. Fluids 14 (1986), 23-41. With s = z sqrt(4 nu t) the trapezoidal
    rule converges geometrically; beyond |z| = 13 the integrand is below 1e-25 of its maximum.
    """
    z = torch.linspace(-13, 13, 1601)
    y = x[..., 0:1] - z * torch.sqrt(4 * VISCOSITY * x[..., 1:2].clamp_min(0))
    weight = torch.softmax(-torch.cos(PI * y) / (2 * PI * VISCOSITY) - z**2, dim=-1)
    return -(torch.sin(PI * y) * weight).sum(-1, keepdim=True)


def burgers() -> Collocation:
    """u_t + u u_x = (0.01 / pi) u_xx on [-1, 1], u(x, 0) = -sin(pi x), u = 0 at the walls."""

    def equation(f: Derivatives) -> Tensor:
        return f.d(1) + f.u * f.d(0) - VISCOSITY * f.d(0, 0)

    return evolution(equation, burgers_reference, (-1.0, 1.0), "walls", interior=600)


def problem(
    name: str,
    make: Callable[[], Collocation],
    target: float,
    widths: tuple[int, ...],
    sizes: tuple[str, ...] = ("full",),
) -> Problem:
    return Problem(
        name,
        "pinn",
        lambda seed: make().instance(glorot(list(widths))),
        targets=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        target=target,
        measure="error",
        sizes=frozenset(sizes),
    )


PLANE, SPACE = (2, 32, 32, 32, 1), (5, 48, 48, 1)

PROBLEMS = [
    problem("poisson-2d", poisson_2d, 1e-3, PLANE, ("short", "standard", "full")),
    problem("poisson-2d-shallow", poisson_2d, 1e-3, (2, 32, 1)),
    problem("poisson-5d", poisson_5d, 1e-2, SPACE, ("standard", "full")),
    problem("heat", heat, 1e-3, PLANE, ("standard", "full")),
    # Failure modes: the question is who finds the solution at all, and not a trivial one.
    problem("burgers", burgers, 1e-1, PLANE),
    problem("convection-30", lambda: convection(30.0), 1e-1, PLANE),
    problem("convection-40", lambda: convection(40.0), 1e-1, PLANE),
    problem("reaction", reaction, 1e-1, PLANE, ("standard", "full")),
    problem("wave", wave, 1e-1, PLANE),
]
