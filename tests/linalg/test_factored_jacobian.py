"""A Jacobian held as factors is the operator of its dense matrix."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from tests.helpers import assert_close, randn
from torch_newton import LinearOperator
from torch_newton.linalg import factor as factor_module
from torch_newton.linalg.factor import Factor
from torch_newton.linalg.factored_jacobian import FactoredJacobian

pytestmark = pytest.mark.usefixtures("float64", "held")

ROWS = 7
PARAMS = [(3, 4), (3,), (2, 2), (5,)]


def jacobian() -> FactoredJacobian:
    """A weight of two uses, its bias, a weight of one use, and a parameter nothing depends on."""
    left = randn(ROWS, 2, 3)
    left[:4, 1] = 0
    right = randn(ROWS, 2, 4, seed=1)
    right[:4, 1] = 0
    weight = Factor(left, right, ((4, 1), (3, 2)))
    other = Factor(randn(ROWS, 1, 2, seed=2), randn(ROWS, 1, 2, seed=3))
    params = [torch.zeros(shape) for shape in PARAMS]
    return FactoredJacobian([weight, Factor(left, None), other, None], params, ROWS)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_it_is_the_operator_of_its_matrix() -> None:
    J, dense = jacobian(), jacobian().dense()
    assert isinstance(J, LinearOperator)
    assert J.shape == dense.shape == (ROWS, 24)
    assert J.dtype is dense.dtype
    v, u, V, U = randn(24), randn(ROWS, seed=1), randn(24, 5, seed=2), randn(ROWS, 5, seed=3)
    assert_close(J @ v, dense @ v, 1e-13)
    assert_close(J.T @ u, dense.T @ u, 1e-13)
    assert_close(J @ V, dense @ V, 1e-13)
    assert_close(J.T @ U, dense.T @ U, 1e-13)
    assert_close((J.T @ J).dense(), dense.T @ dense, 1e-13)
    assert_close((J @ J.T).dense(), J.gram(), 1e-13)
    assert_close((J.T @ J) @ v, dense.T @ (dense @ v), 1e-13)
    assert_close(J.T.dense(), dense.T, 1e-13)
    assert_close((2.0 * J + J).dense(), 3.0 * dense, 1e-13)


def test_a_product_with_its_own_transpose_takes_the_two_products_one_after_the_other() -> None:
    J, v = jacobian(), randn(24)
    assert torch.equal((J.T @ J) @ v, J.rmatvec(J.matvec(v)))


def test_rows_are_formed_in_pieces_where_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor_module, "FORMED", 20)
    J, V, U = jacobian(), randn(24, 5), randn(ROWS, 5)
    assert_close(J @ V, J.dense() @ V, 1e-13)
    assert_close(J.T @ U, J.dense().T @ U, 1e-13)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="24 columns meet 7 rows"):
        jacobian() @ torch.zeros(ROWS)


def test_a_weight_and_its_bias_share_their_left_factor_also_times_a_number() -> None:
    J = jacobian()
    weight, bias, other, _ = J.times(3.0).factors
    assert weight is not None
    assert bias is not None
    assert other is not None
    assert weight.layer == bias.layer != other.layer
    assert weight.left is bias.left
    assert_close(J.times(3.0).dense(), 3.0 * J.dense(), 1e-14)


@pytest.mark.usefixtures("no_collector")
def test_its_memory_is_freed_at_once() -> None:
    J = jacobian()
    entries = weakref.ref(J.factors[0].left)  # type: ignore[union-attr]
    J.dense(), J.gram(), J @ randn(24), J.T @ randn(ROWS), J @ randn(24, 2)
    G = J.T @ J
    G @ randn(24)
    gone = weakref.ref(J)
    del J
    assert gone() is not None  # the product still needs it
    del G
    assert gone() is None
    assert entries() is None
