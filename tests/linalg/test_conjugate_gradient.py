"""Conjugate gradients against dense solves, and what they say where they stop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import assert_close, randn, symmetric_with
from torch_newton import LinearOperator, Stop, conjugate_gradient, from_dense, identity
from torch_newton.linalg.operators import damped

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


def definite(n: int, condition: float, seed: int) -> Tensor:
    return symmetric_with(torch.logspace(-math.log10(condition), 0, n), seed=seed)


@given(st.integers(1, 20), seeds)
def test_definite_systems_are_solved(n: int, seed: int) -> None:
    A, b = definite(n, 50.0, seed), randn(n, seed=seed + 1)
    solution = conjugate_gradient(from_dense(A), b, tol=1e-12, max_iter=2 * n)
    assert solution.stop is Stop.CONVERGED
    assert_close(solution.x, torch.linalg.solve(A, b))
    assert solution.direction is None


@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_as_many_iterations_as_distinct_eigenvalues(distinct: int) -> None:
    A = symmetric_with([1.0 + i % distinct for i in range(12)])
    solution = conjugate_gradient(from_dense(A), randn(12, seed=3), tol=1e-10)
    assert (solution.stop, solution.iterations) == (Stop.CONVERGED, distinct)


def test_ill_conditioned_system_is_solved_to_its_residual() -> None:
    A, b = definite(30, 1e8, 1), randn(30, seed=2)
    solution = conjugate_gradient(from_dense(A), b, tol=1e-8, max_iter=2000)
    assert solution.stop is Stop.CONVERGED
    assert float((A @ solution.x - b).norm()) <= 1.1e-8 * float(b.norm())


@given(st.integers(2, 12), seeds)
def test_singular_consistent_system_gives_the_least_norm_solution(n: int, seed: int) -> None:
    A = symmetric_with([0.0, *torch.linspace(1, 2, n - 1).tolist()], seed=seed)
    b = A @ randn(n, seed=seed + 1)
    solution = conjugate_gradient(from_dense(A), b, tol=1e-10)
    assert solution.stop is Stop.CONVERGED
    assert_close(solution.x, torch.linalg.pinv(A, hermitian=True) @ b, 1e-8)


@given(st.integers(2, 15), st.integers(1, 15), seeds)
def test_a_x_and_residual_are_those_of_the_iterate(n: int, cap: int, seed: int) -> None:
    A, b = definite(n, 100.0, seed), randn(n, seed=seed + 1)
    solution = conjugate_gradient(from_dense(A), b, tol=1e-10, max_iter=cap)
    assert_close(solution.Ax, A @ solution.x, 1e-12)
    assert solution.residual_norm == pytest.approx(float((b - A @ solution.x).norm()), abs=1e-10)


@given(st.integers(3, 15), st.integers(1, 14), seeds)
def test_capped_iterate_is_the_best_of_its_krylov_space(n: int, cap: int, seed: int) -> None:
    cap = min(cap, n - 1, 6)
    A, b = definite(n, 20.0, seed), randn(n, seed=seed + 1)
    solution = conjugate_gradient(from_dense(A), b, tol=0.0, max_iter=cap)
    assert (solution.stop, solution.iterations) == (Stop.MAX_ITERATIONS, cap)
    columns = [b]
    for _ in range(cap - 1):
        columns.append(A @ columns[-1])
    K, _ = torch.linalg.qr(torch.stack(columns, 1))
    assert_close(solution.x, K @ torch.linalg.solve(K.T @ A @ K, K.T @ b), 1e-7)


def first_indefinite_iteration(A: Tensor, b: Tensor) -> int:
    """The k at which A restricted to the k-th Krylov space of b first is not definite."""
    q, basis = b / b.norm(), []
    for k in range(1, len(b) + 1):
        basis.append(q)
        V = torch.stack(basis, 1)
        if float(torch.linalg.eigvalsh(V.T @ A @ V)[0]) <= 0:
            return k
        q = A @ q
        q = q - V @ (V.T @ q)
        q = q - V @ (V.T @ q)
        q = q / q.norm()
    raise AssertionError("A is definite on every Krylov space")


@given(st.integers(2, 12), st.floats(0.01, 3.0), seeds)
def test_negative_curvature_is_met_when_the_krylov_space_holds_it(
    n: int, depth: float, seed: int
) -> None:
    A = symmetric_with([-depth, *torch.linspace(0.5, 2, n - 1).tolist()], seed=seed)
    b = randn(n, seed=seed + 1)
    solution = conjugate_gradient(from_dense(A), b, tol=1e-14, max_iter=3 * n)
    assert solution.stop is Stop.NEGATIVE_CURVATURE
    assert solution.iterations == first_indefinite_iteration(A, b)
    p = solution.direction
    assert p is not None
    assert float(p @ A @ p) <= 0
    assert solution.curvature_min == pytest.approx(float(p @ A @ p / (p @ p)))
    if solution.iterations == 1:
        assert not solution.x.any()
    else:
        # A descent direction of the quadratic, and of the loss whose gradient is -b.
        assert float(b @ solution.x) > 0
        assert float(solution.x @ A @ solution.x / 2 - b @ solution.x) < 0


def test_minus_identity_is_flagged_and_never_solved() -> None:
    solution = conjugate_gradient(-identity(3), torch.ones(3))
    assert solution.stop is Stop.NEGATIVE_CURVATURE
    assert solution.iterations == 1
    assert solution.curvature_min == -1.0
    assert not solution.x.any()
    assert torch.equal(solution.direction, torch.ones(3))


def test_zero_matrix_is_not_definite() -> None:
    solution = conjugate_gradient(from_dense(torch.zeros(2, 2)), torch.ones(2))
    assert solution.stop is Stop.NEGATIVE_CURVATURE
    assert not solution.x.any()


@pytest.mark.parametrize(
    ("threshold", "stop"), [(0.9, Stop.CONVERGED), (1.0, Stop.NEGATIVE_CURVATURE)]
)
def test_least_curvature_that_counts_as_positive(threshold: float, stop: Stop) -> None:
    solution = conjugate_gradient(identity(3), torch.ones(3), min_curvature=threshold)
    assert solution.stop is stop


@given(st.integers(1, 15), seeds)
def test_exact_inverse_as_preconditioner_needs_one_iteration(n: int, seed: int) -> None:
    A, b = definite(n, 1e3, seed), randn(n, seed=seed + 1)
    M = from_dense(torch.linalg.inv(A))
    solution = conjugate_gradient(from_dense(A), b, M, tol=1e-9)
    assert (solution.stop, solution.iterations) == (Stop.CONVERGED, 1)
    assert_close(A @ solution.x, b, 1e-8)


@given(st.integers(2, 15), seeds)
def test_preconditioner_changes_the_way_and_not_the_solution(n: int, seed: int) -> None:
    A, b = definite(n, 100.0, seed), randn(n, seed=seed + 1)
    M = from_dense(definite(n, 10.0, seed + 2))
    solution = conjugate_gradient(from_dense(A), b, M, tol=1e-12, max_iter=5 * n)
    assert solution.stop is Stop.CONVERGED
    assert_close(solution.x, torch.linalg.solve(A, b), 1e-8)
    assert_close(solution.Ax, A @ solution.x)


def test_preconditioned_solve_still_sees_negative_curvature() -> None:
    A = symmetric_with([-0.5, 1.0, 2.0, 3.0])
    M = from_dense(definite(4, 10.0, 1))
    solution = conjugate_gradient(from_dense(A), randn(4, seed=2), M, tol=1e-12, max_iter=20)
    assert solution.stop is Stop.NEGATIVE_CURVATURE
    p = solution.direction
    assert p is not None
    assert float(p @ A @ p) <= 0


def test_zero_right_hand_side_is_solved_by_zero_without_a_product() -> None:
    solution = conjugate_gradient(from_dense(torch.full((3, 3), math.nan)), torch.zeros(3))
    assert (solution.stop, solution.iterations) == (Stop.CONVERGED, 0)
    assert not solution.x.any()
    assert solution.curvature_min == math.inf


def failing_after(A: Tensor, good: int, value: float) -> LinearOperator:
    """Products with A, of which those after the first `good` hold a bad number."""
    calls = []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        Av = A @ v
        if len(calls) > good:
            Av[0] = value
        return Av

    return LinearOperator((len(A), len(A)), product, product, A.dtype, A.device)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("good", [0, 1, 3])
def test_product_that_is_not_finite_stops_the_solve_at_a_finite_iterate(
    good: int, value: float
) -> None:
    A, b = definite(8, 100.0, 1), randn(8, seed=2)
    solution = conjugate_gradient(failing_after(A, good, value), b, tol=1e-12)
    assert solution.stop is Stop.NON_FINITE
    assert solution.iterations == good + 1
    before = conjugate_gradient(from_dense(A), b, tol=1e-12, max_iter=good)
    assert_close(solution.x, before.x, 1e-12)
    assert_close(solution.Ax, before.Ax, 1e-12)


@pytest.mark.parametrize("good", [0, 1, 3])
def test_preconditioner_that_is_not_finite_stops_it_too(good: int) -> None:
    A, b = definite(8, 100.0, 1), randn(8, seed=2)
    M = failing_after(torch.eye(8), good, math.nan)
    solution = conjugate_gradient(from_dense(A), b, M, tol=1e-12)
    assert solution.stop is Stop.NON_FINITE
    assert bool(torch.isfinite(solution.x).all())
    assert_close(solution.Ax, A @ solution.x, 1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_right_hand_side_that_is_not_finite(value: float) -> None:
    solution = conjugate_gradient(identity(2), torch.tensor([1.0, value]))
    assert solution.stop is Stop.NON_FINITE
    assert not solution.x.any()


def test_smallest_curvature_lies_in_the_range_of_the_spectrum() -> None:
    A = definite(10, 100.0, 1)
    solution = conjugate_gradient(from_dense(A), randn(10, seed=2))
    assert 1e-2 - 1e-12 <= solution.curvature_min <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_of_the_solution_is_that_of_the_system(dtype: torch.dtype) -> None:
    A, b = definite(6, 10.0, 1).to(dtype), randn(6, seed=2).to(dtype)
    solution = conjugate_gradient(from_dense(A), b, tol=1e-5)
    assert solution.stop is Stop.CONVERGED
    assert solution.x.dtype is dtype


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e15])
def test_small_and_large_right_hand_sides_in_single_precision(scale: float) -> None:
    A, b = definite(6, 10.0, 1).float(), scale * randn(6, seed=2).float()
    solution = conjugate_gradient(from_dense(A), b, tol=1e-4)
    assert solution.stop is Stop.CONVERGED
    assert bool(torch.isfinite(solution.x).all())


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="square, not 2 x 3"):
        conjugate_gradient(from_dense(torch.ones(2, 3)), torch.ones(2))
    with pytest.raises(ValueError, match="vector of 2 entries"):
        conjugate_gradient(identity(2), torch.ones(3))
    with pytest.raises(ValueError, match="vector of 2 entries"):
        conjugate_gradient(identity(2), torch.ones(2, 1))


def test_preconditioner_that_is_not_definite_stops_the_solve() -> None:
    A = from_dense(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    b = torch.ones(3)
    solution = conjugate_gradient(A, b, -1.0 * identity(3, dtype=b.dtype))
    assert solution.stop is Stop.PRECONDITIONER
    assert solution.iterations == 0
    assert torch.equal(solution.x, torch.zeros(3))

    # Definite in the first direction, and not in the second.
    M = from_dense(torch.diag(torch.tensor([1.0, 0.1, -0.5])))
    solution = conjugate_gradient(A, torch.tensor([1.0, 1.0, 0.5]), M)
    assert solution.stop is Stop.PRECONDITIONER
    assert solution.x.isfinite().all()
    assert torch.allclose(A @ solution.x, solution.Ax)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_right_hand_side_is_overwritten_only_where_that_is_allowed(overwrite: bool) -> None:
    A, b = definite(8, 10.0, 0), randn(8, seed=1)
    before = b.clone()
    solution = conjugate_gradient(from_dense(A), b, overwrite_b=overwrite)
    assert_close(solution.x, torch.linalg.solve(A, before), 1e-7)
    assert torch.equal(b, before) is not overwrite


def test_operators_and_preconditioners_that_return_their_argument() -> None:
    b = randn(5, seed=0)
    before = b.clone()
    M = identity(5)
    for A in (identity(5), damped(identity(5), 1.0)):
        solution = conjugate_gradient(A, b, M)
        assert_close(A @ solution.x, before, 1e-12)
        assert torch.equal(b, before)
