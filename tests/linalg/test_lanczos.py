"""The Lanczos process against the projection on a Krylov space."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import assert_close, randn, symmetric_with
from torch_newton import (
    Tridiagonal,
    from_dense,
    lanczos,
)

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


def basis_of(matrix: Tensor, start: Tensor, steps: int) -> Tensor:
    """An orthonormal basis of the Krylov space, by QR, with the signs that Lanczos gives."""
    q, columns = start / start.norm(), []
    for _ in range(steps):
        columns.append(q)
        V = torch.stack(columns, 1)
        q = matrix @ q
        for _ in range(2):
            q = q - V @ (V.T @ q)
        q = q / q.norm()
    return torch.stack(columns, 1)


@given(st.integers(2, 20), st.integers(1, 19), seeds)
def test_lanczos_is_the_projection_on_the_krylov_space(n: int, steps: int, seed: int) -> None:
    steps = min(steps, n - 1)
    matrix = symmetric_with(torch.linspace(-1, 2, n), seed=seed)
    start = randn(n, seed=seed + 1)
    process = lanczos(from_dense(matrix), steps, start=start)
    V = basis_of(matrix, start, steps)
    T = process.tridiagonal.dense()
    assert T.shape == (steps, steps)
    assert_close(T, V.T @ matrix @ V, 1e-8)
    remainder = matrix @ V - V @ T
    assert_close(remainder[:, :-1], torch.zeros(n, steps - 1), 1e-8)
    assert process.residual == pytest.approx(float(remainder[:, -1].norm()), abs=1e-8)


@given(st.integers(1, 20), seeds)
def test_full_lanczos_has_the_spectrum_and_no_remainder(n: int, seed: int) -> None:
    values = torch.linspace(-1, 2, n)
    process = lanczos(from_dense(symmetric_with(values, seed=seed)), n + 5, seed=seed)
    assert process.residual == 0.0
    ritz, bounds = process.ritz_pairs()
    assert_close(ritz, values, 1e-12)
    assert not bounds.any()
    assert float(process.weights().sum()) == pytest.approx(1.0)


@given(st.integers(3, 20), st.integers(1, 10), seeds)
def test_every_ritz_pair_has_an_eigenvalue_within_its_residual(
    n: int, steps: int, seed: int
) -> None:
    values = torch.linspace(-1, 2, n)
    process = lanczos(from_dense(symmetric_with(values, seed=seed)), steps, seed=seed)
    for ritz, bound in zip(*process.ritz_pairs(), strict=True):
        assert float((values - ritz).abs().min()) <= float(bound) + 1e-12


def test_weights_are_a_quadrature_for_the_moments_of_the_spectrum() -> None:
    matrix, start = symmetric_with(torch.linspace(-1, 2, 15)), randn(15, seed=1)
    process = lanczos(from_dense(matrix), 4, start=start)
    ritz, weights = process.ritz_pairs()[0], process.weights()
    v = start / start.norm()
    for power in range(8):  # exact to degree 2 k - 1
        moment = v @ torch.linalg.matrix_power(matrix, power) @ v
        assert float((weights * ritz**power).sum()) == pytest.approx(float(moment))


def test_start_in_an_invariant_subspace_ends_early() -> None:
    process = lanczos(from_dense(torch.diag(torch.arange(5.0))), 5, start=torch.eye(5)[1])
    assert process.residual == 0.0
    assert process.tridiagonal.ritz_values().tolist() == [1.0]


def test_orthogonality_survives_many_steps() -> None:
    values = torch.cat([torch.linspace(0, 1, 299), torch.tensor([100.0])])
    process = lanczos(from_dense(torch.diag(values)), 300)
    # Without reorthogonalisation the outlier would appear many times.
    assert int((process.tridiagonal.ritz_values() > 50).sum()) == 1
    assert_close(process.tridiagonal.ritz_values(), values, 1e-11)


def test_smallest_eigenvalue_of_a_matrix_that_is_too_large_to_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.randn(300, generator=generator, dtype=torch.float64)
    beside = torch.rand(299, generator=generator, dtype=torch.float64)
    T = Tridiagonal(diagonal, beside)
    expected = float(T.ritz_values()[0])
    monkeypatch.setattr("torch_newton.linalg.lanczos.DENSE_UP_TO", 10)
    assert T.smallest() == pytest.approx(expected, abs=1e-13)
    assert Tridiagonal(diagonal + 10, 0 * beside).smallest() == float(diagonal.min() + 10)
