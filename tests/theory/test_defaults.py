"""How curvature scales in networks as PyTorch initialises them, and what the defaults reach."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.benchmarks.problems.classification import spirals
from examples.paper.problems import geometric_mean, training
from tests.helpers import closure_of, slope
from torch_newton import (
    Adaptive,
    RegNewton,
    Step,
    extreme_eigenvalues,
    gauss_newton,
    hessian,
)


def layers(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A network as PyTorch initialises it."""
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*parts[:-1])


def standardised(y: Tensor) -> Tensor:
    return (y - y.mean()) / y.std(correction=0)


# A22: a linear layer's own scaling.


def curvature(sizes: tuple[int, ...], seed: int) -> tuple[float, float]:
    """lambda_max(G) and |S| at the start, 32 points in the plane, half the mean squared error."""
    torch.manual_seed(seed)
    x = torch.randn(32, 2)
    y = standardised(torch.sin(2 * x[:, :1]) + x[:, 1:] ** 2)
    model = layers(*sizes)
    params, outputs = list(model.parameters()), model(x)
    loss = 0.5 * functional.mse_loss(outputs, y)
    G = gauss_newton(loss, outputs, params)
    largest = extreme_eigenvalues(G, tol=1e-2).largest.value
    found = extreme_eigenvalues(hessian(loss, params) - G, tol=1e-2, max_iter=100)
    return largest, max(-found.smallest.value, found.largest.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "widths", "largest", "indefinite"),
    # Two hidden layers: one in the limit, and .87 measured at these widths.
    [(1, (64, 256, 1024, 4096), 1.0, 0.0), (2, (32, 64, 128, 256, 512), 0.87, 0.5)],
)
def test_a22_curvature_of_default_networks_against_width(
    depth: int, widths: tuple[int, ...], largest: float, indefinite: float, float64: None
) -> None:
    tops, norms = [], []
    for width in widths:
        results = [curvature((2, *[width] * depth, 1), seed) for seed in range(3)]
        tops.append(geometric_mean([top for top, _ in results]))
        norms.append(geometric_mean([norm for _, norm in results]))
    assert slope(widths, tops) == pytest.approx(largest, abs=0.15)
    assert slope(widths, norms) == pytest.approx(indefinite, abs=0.15)


# A23, A24: the adaptive rule needs no tuning, and does no harm.


def units(steps: list[Step]) -> int:
    """Cost in gradients, a product with the curvature counted as two."""
    return sum(step.closure_calls + 2 * step.products for step in steps)


def run(
    params: list[nn.Parameter],
    loss: Callable[[], Tensor],
    budget: int,
    target: float = 1e-14,
    **options: object,
) -> list[Step]:
    optimizer = RegNewton(params, **options)  # type: ignore[arg-type]
    steps: list[Step] = []
    while units(steps) < budget and (not steps or steps[-1].loss_after > target):
        optimizer.step(closure_of(optimizer, loss))
        steps.append(optimizer.last_step)
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("curvature", ["auto", "hessian", "gauss_newton"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a23_two_spirals_from_any_start_of_the_damping(
    start: float, curvature: str, seed: int, float64: None
) -> None:
    torch.manual_seed(seed)
    problem = spirals()
    steps = run(
        problem.params, problem.loss, 3000, 1e-9, damping=Adaptive(start=start), curvature=curvature
    )
    assert min(step.loss_after for step in steps if step.accepted) < 1e-8


@dataclass(frozen=True)
class Small:
    params: list[nn.Parameter]
    loss: Callable[[], Tensor]


def least_squares(model: nn.Module, x: Tensor, y: Tensor) -> Small:
    return Small(list(model.parameters()), lambda: functional.mse_loss(model(x), y))


def circle_problem() -> Small:
    t = torch.linspace(0, 2 * math.pi, 65)[:-1]
    y = sum(torch.sin(k * t) for k in range(1, 7))
    return least_squares(
        layers(2, 128, 128, 1), torch.stack([t.cos(), t.sin()], 1), standardised(y)[:, None]
    )


def spiral_problem() -> Small:
    problem = spirals()
    return Small(problem.params, problem.loss)


def relu_problem() -> Small:
    x = torch.randn(256, 4)
    y = standardised(torch.sin(x[:, :1] * x[:, 1:2]) + x[:, 2:3].abs())
    return least_squares(layers(4, 64, 64, 64, 1, activation=nn.ReLU), x, y)


def training_problem() -> Small:
    dtype = torch.get_default_dtype()
    problem = training()
    net = problem.network(1000, 0.52, 0).to(dtype)
    x, y = problem.x.to(dtype), problem.y.to(dtype)
    return Small(list(net.parameters()), lambda: 0.5 * functional.mse_loss(net(x), y))


def image_problem() -> Small:
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    images = images + torch.randn(4, 1, 8, 8)[labels]
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 4)
    )
    return Small(list(model.parameters()), lambda: functional.cross_entropy(model(images), labels))


PROBLEMS = {
    "circle": circle_problem,
    "spirals": spiral_problem,
    "relu": relu_problem,
    "training": training_problem,
    "images": image_problem,
}


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(request.param)
    torch.set_num_threads(1)
    yield request.param
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], indirect=True)
@pytest.mark.parametrize("curvature", ["auto", "hessian", "gauss_newton"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a24_no_harm_within_a_thousand_units(name: str, curvature: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    problem = PROBLEMS[name]()
    assert problem.params[0].dtype is dtype
    steps = run(problem.params, problem.loss, 1000, curvature=curvature)
    assert len(steps) > 1
    for step in steps:
        assert math.isfinite(step.loss)
        assert math.isfinite(step.damping)
        assert step.damping <= 1e6 * step.scale * (1 + 1e-12)
        if step.accepted:
            assert step.loss_after <= step.loss + 10 * torch.finfo(dtype).eps * abs(step.loss)
    assert all(bool(param.isfinite().all()) for param in problem.params)
    assert steps[-1].loss < steps[0].loss
