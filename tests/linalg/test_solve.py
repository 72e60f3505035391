"""Solves of symmetric systems of any inertia, and inverses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import assert_close, randn, symmetric_with
from tests.linalg.test_minres import indefinite
from torch_newton import (
    LinearOperator,
    SolveError,
    Stop,
    from_dense,
    inverse,
)
from torch_newton.linalg.solve import solve_or_eliminate, solve_symmetric

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


@given(st.integers(1, 12), seeds)
def test_symmetric_solve_says_whether_it_met_negative_curvature(n: int, seed: int) -> None:
    b = randn(n, seed=seed + 1)
    for A, expected in (
        (symmetric_with(torch.linspace(1, 3, n), seed=seed), False),
        (indefinite(n, seed), True),
    ):
        solution, negative = solve_symmetric(from_dense(A), b, tol=1e-12)
        assert solution.stop is Stop.CONVERGED
        assert negative is expected
        assert_close(solution.x, torch.linalg.solve(A, b))


def test_symmetric_solve_does_not_repeat_what_is_not_finite() -> None:
    calls = []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        return v * math.nan

    A = LinearOperator((2, 2), product, product, torch.float64, torch.device("cpu"))
    solution, negative = solve_symmetric(A, torch.ones(2))
    assert (solution.stop, negative, len(calls)) == (Stop.NON_FINITE, False, 1)


@given(st.integers(1, 10), seeds)
def test_inverse_of_definite_and_indefinite_matrices(n: int, seed: int) -> None:
    for A in (symmetric_with(torch.linspace(0.2, 3, n), seed=seed), indefinite(n, seed)):
        dense = torch.linalg.inv(A)
        operator = inverse(from_dense(A), tol=1e-13)
        assert_close(operator.dense(), dense)
        assert_close(operator.T.dense(), dense.T)


def test_inverse_takes_a_preconditioner() -> None:
    A = symmetric_with(torch.logspace(-4, 0, 10))
    exact = inverse(from_dense(A), tol=1e-9, max_iter=1, M=from_dense(torch.linalg.inv(A)))
    b = randn(10, seed=1)
    assert_close(A @ (exact @ b), b, 1e-7)
    with pytest.raises(SolveError):
        inverse(from_dense(A), tol=1e-9, max_iter=1) @ b


@pytest.mark.parametrize(
    "matrix",
    [torch.zeros(2, 2), torch.diag(torch.tensor([0.0, 1.0])), torch.full((2, 2), math.nan)],
    ids=["zero", "singular", "nan"],
)
def test_inverse_that_does_not_exist_raises(matrix: Tensor) -> None:
    with pytest.raises(SolveError, match="2 x 2 operator stopped after"):
        inverse(from_dense(matrix.double())) @ torch.ones(2)


def hard(n: int = 120) -> Tensor:
    """Indefinite, with eigenvalues over ten decades."""
    sizes = torch.logspace(-8, 2, n)
    return symmetric_with(sizes * torch.where(torch.arange(n) % 3 == 0, -1.0, 1.0))


def test_where_iterations_do_not_end_the_matrix_is_eliminated() -> None:
    A = hard()
    b = A @ randn(len(A), seed=1)
    given_up, _ = solve_symmetric(from_dense(A), b, tol=1e-12)
    assert given_up.stop is Stop.MAX_ITERATIONS
    solution, negative = solve_or_eliminate(from_dense(A), b, tol=1e-12)
    assert negative
    assert solution.stop is Stop.CONVERGED
    assert solution.iterations <= 3 * len(b) + 4
    assert solution.residual_norm == float((b - A @ solution.x).norm()) < 1e-12 * float(b.norm())


def test_a_matrix_that_is_too_large_is_not_formed() -> None:
    A = from_dense(hard())
    solution, _ = solve_or_eliminate(A, randn(120), tol=1e-12, dense_up_to=119)
    assert solution.stop is Stop.MAX_ITERATIONS
    assert solution.iterations > 3 * 120


def test_a_singular_matrix_leaves_the_best_iterate() -> None:
    A = torch.diag(torch.tensor([1.0, 2.0, 0.0]))
    solution, _ = solve_or_eliminate(from_dense(A), torch.ones(3))
    assert solution.stop is Stop.MAX_ITERATIONS
    assert_close(A @ solution.x, torch.tensor([1.0, 1.0, 0.0]))
