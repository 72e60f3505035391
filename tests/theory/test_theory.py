"""What the theory of wide networks says exactly, and how it scales with width."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.helpers import (
    Problem,
    Shallow,
    assert_close,
    closure_of,
    mlp,
    newton,
    problem_of,
    randn,
    regression,
    same_bits,
    slope,
)
from torch_newton import (
    Step,
    Stop,
    conjugate_gradient,
    damped,
    extreme_eigenvalues,
    find_residuals,
    from_dense,
    gauss_newton,
    hessian,
    inverse,
    jacobian,
    negative_fraction,
    newton_tangent_kernel,
    tangent_kernel,
)

pytestmark = pytest.mark.usefixtures("float64")


def line(rows: int, target: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x = torch.linspace(0, 1, rows, dtype=torch.float64)
    return x, target(x)


def oscillating(x: Tensor) -> Tensor:
    return 2 * x + 0.4 * torch.sin(20 * math.pi * x)


def shallow(width: int, beta: float, seed: int = 0, rows: int = 32) -> Shallow:
    return Shallow.draw(width, *line(rows, oscillating), beta=beta, seed=seed)


# A1: everything agrees with dense linear algebra.

TINY: dict[str, Callable[[], Problem]] = {
    "shallow": lambda: shallow(6, 0.52, rows=8).problem(),
    "two layers": lambda: regression(2, 4, 3, 1, rows=8),
    "two outputs": lambda: regression(2, 4, 2, rows=8),
    "cross-entropy": lambda: problem_of(
        mlp(2, 4, 3),
        randn(8, 2, seed=1),
        lambda z: functional.cross_entropy(z, torch.arange(8) % 3),
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_a1_products_newton_direction_and_kernel_agree_with_dense(name: str) -> None:
    problem = TINY[name]()
    params, outputs = problem.params, problem.outputs(problem.params)
    loss = problem.loss(outputs)
    H, G, J = problem.hessian(), problem.gauss_newton(), problem.jacobian()
    v = randn(len(H), seed=9)
    assert_close(hessian(loss, params) @ v, H @ v)
    assert_close(gauss_newton(loss, outputs, params) @ v, G @ v)
    assert_close(find_residuals(loss).gauss_newton(params) @ v, G @ v)

    damping = 0.5 - float(torch.linalg.eigvalsh(H)[0])
    damped_H = H + damping * torch.eye(len(H))
    nntk = newton_tangent_kernel(loss, outputs, params, damping, tol=1e-13).dense()
    assert_close(nntk, J @ torch.linalg.solve(damped_H, J.T))

    grads = torch.autograd.grad(problem.value(), params)
    g = torch.cat([grad.reshape(-1) for grad in grads])
    before = torch.cat([p.detach().reshape(-1) for p in params])
    optimizer = newton(params, damping=damping, cg_tol=1e-13)
    optimizer.step(closure_of(optimizer, problem.value))
    move = torch.cat([p.detach().reshape(-1) for p in params]) - before
    assert_close(move, -torch.linalg.solve(damped_H, g))


def test_indefinite_part_is_block_diagonal_over_units_as_derived() -> None:
    net = shallow(7, 0.6, rows=9)
    problem = net.problem()
    S = (problem.hessian() - problem.gauss_newton()).view(3, 7, 3, 7)
    blocks = net.indefinite_part()
    for i in range(7):
        for j in range(7):
            expected = blocks[i] if i == j else torch.zeros(3, 3)
            assert_close(S[:, i, :, j], expected, 1e-13)


# A2, A3: how curvature scales with width.

WIDTHS = (64, 256, 1024, 4096)
SEEDS = range(5)


@cache
def scaling(beta: float) -> dict[str, list[float]]:
    """Geometric means over seeds, a number for each width, all by the package's operators."""
    results: dict[str, list[float]] = {"S": [], "lowest": [], "G": []}
    for width in WIDTHS:
        logs: dict[str, list[float]] = {key: [] for key in results}
        for seed in SEEDS:
            net = shallow(width, beta, seed)
            outputs = net.outputs()
            H = hessian(net.loss(outputs), net.params)
            G = gauss_newton(net.loss(outputs), outputs, net.params)
            S = float(torch.linalg.eigvalsh(net.indefinite_part()).abs().max())
            lowest = extreme_eigenvalues(H, tol=3e-3, max_iter=200).smallest
            highest = extreme_eigenvalues(G, tol=1e-3).largest
            assert lowest.value < 0
            assert highest.converged
            for key, value in (("S", S), ("lowest", -lowest.value), ("G", highest.value)):
                logs[key].append(math.log(value))
        for key, values in logs.items():
            results[key].append(math.exp(sum(values) / len(values)))
    return results


@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_a2_indefinite_part_shrinks_with_width(beta: float) -> None:
    measured = scaling(beta)
    assert slope(WIDTHS, measured["S"]) == pytest.approx(-beta, abs=0.07)
    assert slope(WIDTHS, measured["lowest"]) == pytest.approx(-beta, abs=0.07)
    for norm, lowest in zip(measured["S"], measured["lowest"], strict=True):
        assert 0.8 * norm < lowest <= norm * (1 + 1e-3)


@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_a3_gauss_newton_part_scales_as_the_kernel(beta: float) -> None:
    assert slope(WIDTHS, scaling(beta)["G"]) == pytest.approx(1 - 2 * beta, abs=0.05)


# A4: the Hessian of an overparameterised network is never definite.


@pytest.mark.parametrize(("width", "rows"), [(12, 4), (40, 8), (60, 20)])
@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_a4_at_least_n_minus_m_negative_eigenvalues(width: int, rows: int, beta: float) -> None:
    for seed in range(3):
        net = shallow(width, beta, seed, rows)
        assert net.negative_eigenvalues() >= width - rows
        H = hessian(net.loss(net.outputs()), net.params)
        assert extreme_eigenvalues(H).positive_definite is False


def test_a4_share_of_negative_eigenvalues_is_seen_by_quadrature() -> None:
    net = shallow(60, 0.52, rows=10)
    exact = net.negative_eigenvalues() / 180
    H = hessian(net.loss(net.outputs()), net.params)
    fraction = negative_fraction(H, probes=10, steps=180)
    assert fraction.low <= exact <= fraction.high
    assert fraction.high - fraction.low < 0.2


# A10: eigenvalues of the Newton kernel.


@pytest.mark.parametrize("gamma", [1.0, 1e-2, 1e-4])
def test_a10_newton_kernel_of_gauss_newton_has_damped_eigenvalues(gamma: float) -> None:
    rows, width, beta = 8, 60, 0.52
    net = shallow(width, beta, rows=rows)
    outputs = net.outputs()
    damping = gamma * width ** (1 - 2 * beta)
    B = (1 / rows) * tangent_kernel(outputs, net.params)
    kappa = torch.linalg.eigvalsh(B.dense())
    J = jacobian(outputs, net.params)
    G = gauss_newton(net.loss(outputs), outputs, net.params)
    nntk = (1 / rows) * (J @ inverse(damped(G, damping), tol=1e-13, max_iter=4000) @ J.T)
    eigenvalues = torch.linalg.eigvalsh(nntk.dense())
    assert_close(eigenvalues, kappa / (kappa + damping), 1e-8)
    assert bool(((eigenvalues > 0) & (eigenvalues < 1)).all())
    least = float(kappa[0] / (kappa[0] + damping))
    assert float(eigenvalues[0]) >= least - 1e-8


# A20: conjugate gradients as a test of definiteness.


@pytest.fixture(scope="module")
def training_problem() -> Shallow:
    def target(x: Tensor) -> Tensor:
        waves = sum(torch.sin(k * math.pi * x) for k in (8, 10, 16))
        return 4 * x + torch.sin(2 * math.pi * x) + 0.8 * waves

    return Shallow.draw(1000, *line(128, target), beta=0.52, seed=0)


@pytest.mark.parametrize("factor", [2.0, 0.5, 0.25])
def test_a20_conjugate_gradients_tell_whether_the_damping_exceeds_the_indefinite_part(
    training_problem: Shallow, factor: float
) -> None:
    net = training_problem
    norm = float(torch.linalg.eigvalsh(net.indefinite_part()).abs().max())
    loss = net.loss(net.outputs())
    H = hessian(loss, net.params)
    g = torch.cat(torch.autograd.grad(loss, net.params, retain_graph=True))
    solution = conjugate_gradient(damped(H, factor * norm), -g, tol=1e-4, max_iter=200)
    if factor > 1:
        assert solution.stop is Stop.CONVERGED
        assert solution.iterations <= 12
    else:
        assert solution.stop is Stop.NEGATIVE_CURVATURE
        assert 2 <= solution.iterations <= 5
        assert float(solution.x @ -g) > 0


# A21: the adaptive rule does not depend on how the loss is scaled.


def run(
    loss_of: Callable[[Problem], Tensor], steps: int, **options: Any
) -> tuple[list[Tensor], list[Step]]:
    problem = regression(2, 10, 1, rows=16)
    optimizer = newton(problem.params, **options)
    points, records = [], []
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, lambda: loss_of(problem)))
        points.append(torch.cat([p.detach().reshape(-1) for p in problem.params]))
        records.append(optimizer.last_step)
    return points, records


@pytest.mark.parametrize("power", [6, -10])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_a21_trajectory_is_bitwise_the_same_for_a_loss_times_a_power_of_two(
    curvature: str, power: int
) -> None:
    factor = 2.0**power
    points, records = run(Problem.value, 40, curvature=curvature)
    scaled, others = run(lambda p: factor * p.value(), 40, curvature=curvature)
    assert len({record.damping for record in records}) > 10
    for point, other, record, another in zip(points, scaled, records, others, strict=True):
        assert same_bits(point, other)
        assert another.damping == factor * record.damping
        assert another.scale == factor * record.scale
        assert (another.ratio, another.cg_iterations) == (record.ratio, record.cg_iterations)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_a21_mean_and_sum_take_the_same_steps(curvature: str) -> None:
    # More steps than these let conjugate gradients carry rounding far beyond 1e-6.
    points, records = run(Problem.value, 5, curvature=curvature)
    # 16 rows of one output: the sum is 16 times the mean. 3 is not a power of two.
    for factor in (16, 3 * 16):
        summed, others = run(lambda p: factor * p.value(), 5, curvature=curvature)  # noqa: B023
        for point, other, record, another in zip(points, summed, records, others, strict=True):
            assert_close(other, point, 1e-6)
            assert another.damping == pytest.approx(factor * record.damping, rel=1e-6)


def test_a21_reduction_of_mse_loss() -> None:
    x, y = randn(12, 2, seed=1), randn(12, 1, seed=2)
    results = []
    for reduction in ("mean", "sum"):
        model = mlp(2, 8, 1)
        optimizer = newton(model.parameters())
        for _ in range(10):
            optimizer.step(
                closure_of(
                    optimizer,
                    lambda: functional.mse_loss(model(x), y, reduction=reduction),  # noqa: B023
                )
            )
        results.append((optimizer.last_step, [p.detach() for p in model.parameters()]))
    (mean, points), (total, others) = results
    assert total.damping == pytest.approx(12 * mean.damping, rel=1e-6)
    for point, other in zip(points, others, strict=True):
        assert_close(other, point, 1e-6)


def test_kernel_reference_is_that_of_a_dense_matrix() -> None:
    net = shallow(5, 0.52, rows=4)
    J = net.problem().jacobian()
    assert_close(tangent_kernel(net.outputs(), net.params).dense(), J @ J.T)
    assert_close(from_dense(J @ J.T).dense(), J @ J.T)
