"""J^T J and least squares over blocks of rows are those of the whole matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import assert_close, randn
from torch_newton.linalg import normal_equations, row_compression
from torch_newton.linalg.factor import Factor
from torch_newton.linalg.factored_jacobian import FactoredJacobian
from torch_newton.linalg.indexed_factor import IndexedFactor
from torch_newton.linalg.normal_equations import normal_matrix
from torch_newton.linalg.row_compression import compressed

pytestmark = pytest.mark.usefixtures("float64")


def jacobian(rows: int) -> FactoredJacobian:
    """A weight of two uses and its bias, a table, a parameter that nothing depends on."""
    left = randn(rows, 2, 3)
    left[: rows // 2, 1] = 0
    weight = Factor(left, randn(rows, 2, 4, seed=1), ((rows // 2, 1), (rows - rows // 2, 2)))
    index = torch.arange(rows)[:, None] % 5
    table = IndexedFactor(randn(rows, 1, 2, seed=2), None, index=index, number=5)
    params = [torch.zeros(n) for n in (12, 3, 10, 4)]
    return FactoredJacobian([weight, Factor(left, None), table, None], params, rows)


@given(st.integers(1, 60), st.integers(1, 400))
def test_blocks_are_the_rows_in_order(rows: int, entries: int) -> None:
    J = jacobian(rows)
    blocks = list(J.blocks(entries))
    assert all(block.rows == 1 or block.rows * 29 <= entries for block in blocks)
    assert torch.equal(torch.cat([block.dense() for block in blocks]), J.dense())


@given(st.integers(0, 60), st.integers(1, 400))
def test_the_sum_over_blocks_is_the_matrix_of_all_rows(rows: int, entries: int) -> None:
    J = jacobian(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal_equations, "BLOCK", entries)
        found = normal_matrix(J)
    dense = J.dense()
    assert torch.equal(found, found.T)
    assert_close(found, dense.T @ dense, 1e-13)


def test_more_columns_than_one_product_takes() -> None:
    J = FactoredJacobian([Factor(randn(900, 1, 200), None)], [torch.zeros(200)], 900)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal_equations, "BLOCK", 300 * 200)
        found = normal_matrix(J)
    dense = J.dense()
    assert torch.equal(found, found.T)
    assert_close(found, dense.T @ dense, 1e-13)


@given(st.integers(1, 120))
def test_compressed_rows_have_the_same_normal_equations(rows: int) -> None:
    J, t = jacobian(rows), randn(rows, seed=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_compression, "BLOCK", 1)  # 29 x 29 entries then
        A, b = compressed(J, t)
    dense = J.dense()
    assert len(A) == rows or len(A) <= 30
    assert_close(A.T @ A, dense.T @ dense, 1e-12)
    assert_close(A.T @ b, dense.T @ t, 1e-12)


def test_another_precision_keeps_what_a_weight_and_its_bias_share() -> None:
    J = jacobian(20)
    single = J.to(torch.float32)
    assert single.dtype is torch.float32
    assert single.to(torch.float32) is single
    assert single.factors[0].layer == single.factors[1].layer  # type: ignore[union-attr]
    assert_close(single.dense().double(), J.dense(), 1e-6)
    double = single.to(torch.float64)
    u, v = randn(20, seed=3), randn(29, seed=4)
    for found in (double.gram(), double @ v, double.T @ u, double.squared_norms()):
        assert found.dtype is torch.float64
    assert_close(double.dense(), single.dense().double(), 1e-6)
