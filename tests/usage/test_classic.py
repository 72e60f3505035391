"""Test functions of optimization, from their standard starts, with every option at its default."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import assert_close, closure_of
from torch_newton import RegNewton

pytestmark = pytest.mark.usefixtures("float64")


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def himmelblau(x: Tensor) -> Tensor:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def beale(x: Tensor) -> Tensor:
    return sum(
        (c - x[0] * (1 - x[1] ** power)) ** 2 for c, power in ((1.5, 1), (2.25, 2), (2.625, 3))
    )


def minimise(function: Callable[[Tensor], Tensor], start: list[float], steps: int) -> Tensor:
    """The last point; every accepted step on the way must have lowered the function."""
    x = nn.Parameter(torch.tensor(start))
    optimizer = RegNewton([x])
    closure = closure_of(optimizer, lambda: function(x))
    before = float("inf")
    for _ in range(steps):
        loss = optimizer.step(closure).item()
        assert loss <= before * (1 + 1e-14)
        before = loss
    return x.detach()


@pytest.mark.parametrize("start", [[-1.2, 1.0], [0.0, 0.0], [3.0, -2.0], [-3.0, -4.0]])
def test_rosenbrock(start: list[float]) -> None:
    assert_close(minimise(rosenbrock, start, 100), torch.ones(2), 1e-8)


def test_rosenbrock_in_ten_dimensions() -> None:
    assert_close(minimise(rosenbrock, [0.0] * 10, 200), torch.ones(10), 1e-8)


def test_rosenbrock_in_ten_dimensions_from_the_standard_start() -> None:
    # There is a second minimum nearby, with x[0] = -0.993, which a method may end in as well.
    end = minimise(rosenbrock, [-1.2, 1.0] * 5, 200)
    assert float(end[0]) == pytest.approx(1.0) or float(end[0]) == pytest.approx(-0.99328, abs=1e-4)
    assert float(torch.func.grad(rosenbrock)(end).norm()) < 1e-8
    assert float(torch.linalg.eigvalsh(torch.func.hessian(rosenbrock)(end))[0]) > 0


HIMMELBLAU_MINIMA = torch.tensor(
    [
        [3.0, 2.0],
        [-2.805118086952745, 3.131312518250573],
        [-3.779310253377747, -3.283185991286170],
        [3.584428340330492, -1.848126526964404],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize(
    "start", [[0.0, 0.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-0.27, -0.92]]
)
def test_himmelblau(start: list[float]) -> None:
    end = minimise(himmelblau, start, 60)
    assert float((HIMMELBLAU_MINIMA - end).norm(dim=1).min()) < 1e-8


@pytest.mark.parametrize("start", [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [2.0, -1.0]])
def test_beale(start: list[float]) -> None:
    assert_close(minimise(beale, start, 100), torch.tensor([3.0, 0.5]), 1e-8)


def test_quadratic_with_condition_number_of_a_million() -> None:
    scales = torch.logspace(-6, 0, 7)
    end = minimise(lambda x: (scales * x**2).sum(), [1.0] * 7, 60)
    assert float((scales * end**2).sum()) < 1e-16
