"""Products with the Jacobian of a table, against the same with one-hot vectors."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import assert_close, randn
from torch_newton.linalg import indexed_factor
from torch_newton.linalg.factored_jacobian import FactoredJacobian
from torch_newton.linalg.indexed_factor import IndexedFactor
from torch_newton.preconditioners.scaling import Scaling

pytestmark = pytest.mark.usefixtures("float64")

sizes = st.tuples(
    st.integers(1, 9), st.integers(1, 4), st.integers(1, 12), st.integers(1, 3), st.integers(0, 99)
)
"""R, K, n, b and a seed."""


def table(rows: int, uses: int, number: int, width: int, seed: int) -> IndexedFactor:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(number, (rows, uses), generator=generator)
    return IndexedFactor.of(index, randn(rows, uses, width, seed=seed), number)


def dense(rows: int, uses: int, number: int, width: int, seed: int) -> torch.Tensor:
    """J, use by use."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(number, (rows, uses), generator=generator)
    J = torch.zeros(rows, number, width)
    for m, uses_of_row in enumerate(index.tolist()):
        for k, i in enumerate(uses_of_row):
            J[m, i] += randn(rows, uses, width, seed=seed)[m, k]
    return J.flatten(1)


@given(sizes)
def test_products_are_those_of_the_matrix(shape: tuple[int, int, int, int, int]) -> None:
    factor, J = table(*shape), dense(*shape)
    rows, columns = J.shape
    v, u, V, U = randn(columns), randn(rows), randn(columns, 2), randn(rows, 2)
    assert factor.size == columns
    assert_close(factor.dense(), J, 1e-12)
    assert_close(factor.plain().dense(), J, 1e-12)
    assert_close(factor.matvec(v), J @ v, 1e-12)
    assert_close(factor.rmatvec(u), J.T @ u, 1e-12)
    assert_close(factor.matmat(V), J @ V, 1e-12)
    assert_close(factor.rmatmat(U), J.T @ U, 1e-12)
    assert_close(factor.squared_norms(), J.square().sum(1), 1e-12)
    index = torch.arange(rows).flip(0)
    assert_close(factor.take(index, u).dense(), J[index] * u[:, None], 1e-12)


@given(sizes, st.booleans())
def test_a_gram_matrix_by_pairs_and_by_formed_columns(
    shape: tuple[int, int, int, int, int], pairs: bool
) -> None:
    factor, J = table(*shape), dense(*shape)
    price, entries = (0, 3) if pairs else (10**9, 3)
    with (
        mock.patch.object(indexed_factor, "PAIR", price),
        mock.patch.object(indexed_factor, "FORMED", entries),
    ):
        total = torch.zeros(len(J), len(J))
        factor.add_gram(total)
    assert_close(total, J @ J.T, 1e-12)


@given(sizes)
def test_the_scaling_is_of_rank_one_with_the_sums_of_the_diagonal(
    shape: tuple[int, int, int, int, int],
) -> None:
    factor, J = table(*shape), dense(*shape)
    rows, columns = factor.sums_of_squares()
    diagonal = J.square().sum(0).reshape(factor.number, -1)
    assert_close(rows, diagonal.sum(1), 1e-12)
    assert_close(columns, diagonal.sum(0), 1e-12)
    jacobian = FactoredJacobian([factor], [torch.zeros(diagonal.shape)], len(J))
    scaling = Scaling.of(jacobian)
    assert_close(scaling.apply(jacobian).dense(), J * scaling.vector, 1e-12)
