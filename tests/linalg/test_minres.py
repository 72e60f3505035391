"""Minimum residuals on systems that are indefinite or singular."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import assert_close, randn, symmetric_with
from torch_newton import (
    Stop,
    from_dense,
    identity,
    minimum_residual,
)

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


def indefinite(n: int, seed: int) -> Tensor:
    """Eigenvalues of both signs and of moduli between 1/2 and 2."""
    values = torch.linspace(0.5, 2, n) * torch.where(torch.arange(n) % 3 == 0, -1.0, 1.0)
    return symmetric_with(values, seed=seed)


@given(st.integers(1, 20), seeds)
def test_indefinite_systems_are_solved(n: int, seed: int) -> None:
    A, b = indefinite(n, seed), randn(n, seed=seed + 1)
    solution = minimum_residual(from_dense(A), b, tol=1e-12)
    assert solution.stop is Stop.CONVERGED
    assert_close(solution.x, torch.linalg.solve(A, b))
    assert_close(solution.Ax, A @ solution.x, 1e-12)
    assert solution.residual_norm == pytest.approx(float((b - A @ solution.x).norm()), abs=1e-13)


@given(st.integers(3, 14), st.integers(1, 6), seeds)
def test_capped_iterate_has_the_least_residual_of_its_krylov_space(
    n: int, cap: int, seed: int
) -> None:
    cap = min(cap, n - 1)
    A, b = indefinite(n, seed), randn(n, seed=seed + 1)
    solution = minimum_residual(from_dense(A), b, tol=0.0, max_iter=cap)
    assert solution.stop is Stop.MAX_ITERATIONS
    columns = [b]
    for _ in range(cap - 1):
        columns.append(A @ columns[-1])
    K, _ = torch.linalg.qr(torch.stack(columns, 1))
    best = torch.linalg.lstsq(A @ K, b[:, None]).solution[:, 0]
    assert solution.residual_norm == pytest.approx(float((b - A @ K @ best).norm()), rel=1e-7)


@given(st.integers(3, 12), seeds)
def test_singular_consistent_system_is_solved(n: int, seed: int) -> None:
    values = [0.0, -1.0, *torch.linspace(1, 2, n - 2).tolist()]
    A = symmetric_with(values, seed=seed)
    b = A @ randn(n, seed=seed + 1)
    solution = minimum_residual(from_dense(A), b, tol=1e-10)
    assert solution.stop is Stop.CONVERGED
    assert_close(solution.x, torch.linalg.pinv(A, hermitian=True) @ b, 1e-8)


def test_singular_inconsistent_system_gives_the_least_residual_and_says_so() -> None:
    A = from_dense(torch.diag(torch.tensor([0.0, -1.0, 2.0])))
    solution = minimum_residual(A, torch.tensor([3.0, 1.0, 1.0]))
    assert solution.stop is Stop.MAX_ITERATIONS
    assert solution.residual_norm == pytest.approx(3.0)
    assert float(solution.x.norm()) < 10


def test_ill_conditioned_indefinite_system_reaches_its_tolerance() -> None:
    values = torch.logspace(-6, 0, 20) * torch.where(torch.arange(20) % 2 == 0, -1.0, 1.0)
    A, b = symmetric_with(values, seed=1), randn(20, seed=2)
    solution = minimum_residual(from_dense(A), b, tol=1e-8, max_iter=4000)
    assert solution.stop is Stop.CONVERGED
    assert float((b - A @ solution.x).norm()) <= 1e-8 * float(b.norm())


def test_minus_identity_is_solved() -> None:
    solution = minimum_residual(-identity(3), torch.ones(3))
    assert solution.stop is Stop.CONVERGED
    assert_close(solution.x, -torch.ones(3), 1e-14)
    assert solution.curvature_min == pytest.approx(-1.0)


def test_zero_matrix_and_zero_right_hand_side() -> None:
    solution = minimum_residual(from_dense(torch.zeros(2, 2)), torch.ones(2))
    assert solution.stop is Stop.MAX_ITERATIONS
    assert not solution.x.any()
    solution = minimum_residual(from_dense(indefinite(3, 0)), torch.zeros(3))
    assert solution.stop is Stop.CONVERGED
    assert not solution.x.any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_products_that_are_not_finite_are_reported(value: float) -> None:
    solution = minimum_residual(from_dense(torch.tensor([[value, 1.0], [1.0, 0.0]])), torch.ones(2))
    assert solution.stop is Stop.NON_FINITE


def test_smallest_curvature_of_a_full_run_is_the_smallest_eigenvalue() -> None:
    A = indefinite(6, 4)
    solution = minimum_residual(from_dense(A), randn(6, seed=5), tol=1e-13)
    assert solution.curvature_min == pytest.approx(float(torch.linalg.eigvalsh(A)[0]))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="square, not 2 x 3"):
        minimum_residual(from_dense(torch.ones(2, 3)), torch.ones(2))
    with pytest.raises(ValueError, match="vector of 2 entries"):
        minimum_residual(identity(2), torch.ones(3))
