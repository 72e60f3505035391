"""The signs of all eigenvalues, counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import generator, symmetric_with
from torch_newton import (
    Fraction,
    Inertia,
    extreme_eigenvalues,
    from_dense,
    inertia,
)

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("seed", range(10))
def test_matrix_with_a_small_negative_eigenvalue_is_never_called_definite(seed: int) -> None:
    """A thousand matrices of norm about one whose smallest eigenvalue is -1e-10 or below."""
    for case in range(100):
        random = generator(1000 * seed + case)
        n = int(torch.randint(1, 60, (), generator=random))
        margin = 10 ** float(-10 * torch.rand((), generator=random))
        values = torch.cat([torch.tensor([-margin]), torch.rand(n - 1, generator=random)])
        matrix = torch.diag(values) if case % 2 else symmetric_with(values, seed=case)
        A = from_dense(matrix)
        assert inertia(A).positive_definite is not True
        steps = (100, 20, 6)[case % 3]
        assert extreme_eigenvalues(A, max_iter=steps, seed=case).positive_definite is not True


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 12), seeds)
def test_inertia_counts(negative: int, zero: int, positive: int, seed: int) -> None:
    values = torch.cat([-torch.rand(negative) - 0.1, torch.zeros(zero), torch.rand(positive) + 0.1])
    signs = inertia(from_dense(torch.diag(values)))
    assert (signs.negative, signs.undecided, signs.positive) == (negative, zero, positive)
    turned = inertia(from_dense(symmetric_with(values, seed=seed)))
    assert (turned.negative, turned.undecided, turned.positive) == (negative, zero, positive)
    n = len(values)
    assert signs.negative_fraction == Fraction(negative / n, negative / n, (negative + zero) / n)
    assert signs.positive_definite is (False if negative else None if zero else True)


def test_what_rounding_decides_is_undecided() -> None:
    values = torch.tensor([-1e-17, 1e-17, 1.0])
    assert Inertia.of(values, 1e-16) == Inertia(0, 2, 1, 1e-16)
    assert Inertia.of(values, 0.0) == Inertia(1, 0, 2, 0.0)
    coarse = inertia(from_dense(torch.diag(torch.tensor([-1e-3, 0.5, 1.0]))), epsilon=1e-3)
    assert coarse.undecided == 1
