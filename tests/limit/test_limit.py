"""The infinite-width kernel against closed forms and sampling; the limit equation against steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.helpers import assert_close, generator, randn, symmetric_with
from torch_newton import tangent_kernel
from torch_newton.limit import LimitEquation, limit_kernel, newton_kernel
from torch_newton.limit.activations import CLOSED_FORMS, Angles
from torch_newton.limit.kernel import slope_of
from torch_newton.limit.quadrature import average, hermite_series, polar
from torch_newton.nn import ShallowNetwork

pytestmark = pytest.mark.usefixtures("float64")

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"erf": torch.erf, "relu": torch.relu}


def points(rows: int = 10, features: int = 3) -> Tensor:
    """Random points, among them two that nearly coincide and two that are opposite."""
    x = randn(rows, features)
    x[1] = x[0] + 1e-6
    x[2] = -x[0]
    return x


# The kernel.


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
def test_quadrature_agrees_with_closed_forms(name: str, size: float) -> None:
    x = size * points()
    assert_close(limit_kernel(x, FUNCTIONS[name]), limit_kernel(x, name), 1e-10)
    pairs = Angles.of(x)
    exact = CLOSED_FORMS[name](pairs)
    assert_close(average(FUNCTIONS[name], pairs), exact.values, 1e-10)
    assert_close(average(slope_of(FUNCTIONS[name]), pairs), exact.slopes, 1e-10)


@pytest.mark.parametrize("function", [torch.tanh, functional.gelu, torch.sin, functional.silu])
def test_the_two_quadratures_agree(function: Callable[[Tensor], Tensor]) -> None:
    pairs = Angles.of(points())
    series = hermite_series(function, pairs)
    assert series is not None
    assert_close(series, polar(function, pairs), 1e-11)


def test_a_kink_is_left_to_polar_coordinates() -> None:
    pairs = Angles.of(points())
    assert hermite_series(torch.relu, pairs) is None
    assert hermite_series(lambda u: (u > 0).double(), pairs) is None
    assert hermite_series(torch.tanh, pairs) is not None


def test_moments_of_a_polynomial() -> None:
    pairs = Angles.of(points())
    k, q, p = pairs.covariance, pairs.left, pairs.right
    assert_close(average(lambda u: u, pairs), k, 1e-12)
    assert_close(average(torch.square, pairs), q * p + 2 * k**2, 1e-12)
    assert_close(average(torch.ones_like, pairs), torch.ones_like(k), 1e-12)


def test_kernel_keeps_its_digits_where_points_nearly_coincide() -> None:
    # cos(angle) = 1 - 5e-17 rounds to one; the slope of ReLU sees the angle itself.
    x = torch.tensor([[0.0], [1e-8]])
    slopes = CLOSED_FORMS["relu"](Angles.of(x)).slopes
    assert float(0.5 - slopes[0, 1]) == pytest.approx(1e-8 / (2 * math.pi), rel=1e-6)


UNITS = 400_000


def drawn_kernel(x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """J J^T / M of a network of so many units, in closed form, times N^(2 beta - 1).

    The units are scrambled Sobol points: independent ones leave an error of 6e-4 for tanh and
    erf, but of 2e-3 for ReLU, whose squares have heavy tails.
    """
    rows = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    sobol = torch.quasirandom.SobolEngine(rows.shape[1] + 1, scramble=True, seed=0)
    total = torch.zeros(len(x), len(x))
    for _ in range(8):
        drawn = 2 * sobol.draw(UNITS // 8, dtype=torch.float64) - 1
        normal = math.sqrt(2) * torch.special.erfinv(drawn[:, 1:].clamp(-1 + 1e-15, 1 - 1e-15))
        u = rows @ normal.T
        values, slopes = activation(u), drawn[:, 0] * slope_of(activation)(u)
        total += values @ values.T + (rows @ rows.T) * (slopes @ slopes.T)
    return total / (UNITS * len(x))


@pytest.mark.parametrize(
    ("name", "function"), [("tanh", torch.tanh), ("erf", torch.erf), ("relu", torch.relu)]
)
def test_kernel_agrees_with_monte_carlo(name: str, function: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(0, 1, 16)
    exact, drawn = limit_kernel(x, name), drawn_kernel(x[:, None], function)
    error = torch.linalg.matrix_norm(drawn - exact) / torch.linalg.matrix_norm(exact)
    assert float(error) < 1e-3


def test_kernel_is_the_limit_of_the_networks() -> None:
    x = randn(6, 2)
    net = ShallowNetwork(2, 40_000, beta=0.75, generator=generator(1))
    finite = tangent_kernel(net(x), list(net.parameters())).dense() / 6 * 40_000**0.5
    exact = limit_kernel(x)
    error = torch.linalg.matrix_norm(finite - exact) / torch.linalg.matrix_norm(exact)
    assert float(error) < 0.02  # sampling, of the order 40,000^(-1/2) = 0.005


def test_published_spectrum_of_the_width_study() -> None:
    kappa = torch.linalg.eigvalsh(limit_kernel(torch.linspace(0, 1, 16))).flip(0)
    expected = torch.tensor([0.58, 4.5e-2, 1.5e-3, 1.3e-4, 9.8e-6, 1.0e-6])
    assert bool(((kappa[:6] / expected - 1).abs() < 0.07).all())


def test_on_a_circle_the_modes_are_frequencies() -> None:
    t = 2 * math.pi * torch.arange(32) / 32
    B = limit_kernel(3 * torch.stack([t.cos(), t.sin()], 1))
    for k in range(1, 7):
        wave = (k * t).sin()
        image = B @ wave
        assert_close(image, (image @ wave) / (wave @ wave) * wave, 1e-10)


def test_output_variance_and_shapes() -> None:
    x = randn(5, 2)
    pairs = Angles.of(x)
    values = average(torch.tanh, pairs) / 5
    assert_close(limit_kernel(x, output_variance=0.0), values, 1e-12)
    line = torch.linspace(0, 1, 4)
    assert_close(limit_kernel(line), limit_kernel(line[:, None]), 0.0)
    assert limit_kernel(line.float()).dtype is torch.float64
    assert limit_kernel(line[:1]).shape == (1, 1)


@pytest.mark.slow
def test_kernel_of_4096_points_is_positive_semidefinite() -> None:
    B = limit_kernel(torch.linspace(-1, 1, 4096))
    assert_close(B, B.T, 1e-14)
    v = randn(4096, 3)
    assert bool(((v.T @ B @ v).diagonal() > 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.ones(2, 2, 2)}, "shape"),
        ({"x": torch.ones(0, 2)}, "shape"),
        ({"x": torch.ones(2), "activation": "tahn"}, "'tanh', 'erf', 'relu'"),
        ({"x": torch.ones(2), "output_variance": -1.0}, "output_variance"),
    ],
)
def test_bad_kernels_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        limit_kernel(**arguments)  # type: ignore[arg-type]


# The equation.


def kernel_of(eigenvalues: list[float]) -> Tensor:
    return symmetric_with(eigenvalues, seed=3)


@given(
    st.lists(st.floats(0.0, 10.0), min_size=1, max_size=6),
    st.floats(1e-6, 10.0),
    st.floats(0.0, 2.0),
    st.integers(0, 12),
)
def test_discrete_solution_is_that_of_the_recursion(
    kappa: list[float], gamma: float, lr: float, steps: int
) -> None:
    B = kernel_of(kappa)
    start, y = randn(len(kappa), seed=1), randn(len(kappa), seed=2)
    equation = LimitEquation.newton(B, gamma, lr)
    K = lr * B @ torch.linalg.inv(B + gamma * torch.eye(len(kappa)))
    f = start
    for _ in range(steps):
        f = f + K @ (y - f)
    assert_close(equation.at_step(steps, start, y), f, 1e-7)
    assert equation.stable


def test_flow_solves_the_differential_equation() -> None:
    B = kernel_of([1.0, 0.3, 0.01])
    start, y = randn(3, seed=1), randn(3, seed=2)
    for equation in (LimitEquation.newton(B, 0.1), LimitEquation.gradient_descent(B, 0.7)):
        K = (equation.modes * equation.rates) @ equation.modes.T
        expected = y - torch.linalg.matrix_exp(-2.5 * K) @ (y - start)
        assert_close(equation.at_time(2.5, start, y), expected, 1e-12)
        times = torch.tensor([0.0, 2.5])
        assert_close(equation.at_time(times, start, y), torch.stack([start, expected]), 1e-12)


def test_several_steps_at_once() -> None:
    B = kernel_of([1.0, 0.3, 0.01])
    start, y = randn(3, seed=1), randn(3, seed=2)
    equation = LimitEquation.gradient_descent(B)
    together = equation.at_step(torch.arange(4), start, y)
    assert together.shape == (4, 3)
    for t in range(4):
        assert_close(together[t], equation.at_step(t, start, y), 1e-14)


def test_newton_kernel_is_the_formula() -> None:
    B = kernel_of([2.0, 0.5, 1e-3])
    assert_close(newton_kernel(B, 0.1), B @ torch.linalg.inv(0.1 * torch.eye(3) + B), 1e-12)


def test_predicted_steps_per_mode() -> None:
    B = kernel_of([1.0, 1e-2, 1e-10, 0.0])
    steps = LimitEquation.newton(B, 1e-2).steps(1e-3)
    assert float(steps[0]) == pytest.approx(math.log(1e3) / math.log1p(100.0))
    assert float(steps[1]) == pytest.approx(math.log(1e3) / math.log(2))
    assert float(steps[2]) == pytest.approx(math.log(1e3) / 1e-8, rel=1e-4)
    assert float(steps[3]) > 1e12  # rounding decides what is zero
    descent = LimitEquation.gradient_descent(B).steps(1e-3)
    assert float(descent[0]) <= 1.0
    assert float(descent[1]) == pytest.approx(math.log(1e-3) / math.log1p(-1e-2), rel=1e-6)
    zero = LimitEquation.newton(torch.zeros(2, 2), 1.0).steps(0.5)
    assert bool(zero.isinf().all())


def test_gradient_descent_is_unstable_above_its_bound_and_newton_never_below_two() -> None:
    B = kernel_of([5.0, 1e-3])
    assert LimitEquation.gradient_descent(B, 0.39).stable
    assert not LimitEquation.gradient_descent(B, 0.41).stable
    assert LimitEquation.newton(B, 1e-9, lr=2.0).stable
    assert not LimitEquation.newton(B, 1e-9, lr=2.1).stable


def test_bad_equations_are_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        newton_kernel(torch.ones(2, 3), 0.1)
    with pytest.raises(ValueError, match="gamma"):
        newton_kernel(torch.eye(2), 0.0)
    with pytest.raises(ValueError, match="learning rate"):
        LimitEquation.gradient_descent(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="factor"):
        LimitEquation.newton(torch.eye(2), 0.1).steps(1.0)
