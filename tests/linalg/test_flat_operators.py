from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import assert_close, randn
from torch_newton import LinearOperator, damped, from_dense, identity
from torch_newton.linalg.flat import flatten, unflatten

pytestmark = pytest.mark.usefixtures("float64")

sizes = st.integers(1, 6)
seeds = st.integers(0, 10_000)
numbers = st.floats(-8, 8, allow_nan=False)


@given(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5), seeds)
def test_unflatten_undoes_flatten(shapes: list[list[int]], seed: int) -> None:
    tensors = [randn(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    vector = flatten(tensors)
    assert vector.shape == (sum(t.numel() for t in tensors),)
    for tensor, back in zip(tensors, unflatten(vector, tensors), strict=True):
        assert back.shape == tensor.shape
        assert torch.equal(back, tensor)


def test_flatten_keeps_the_order_and_reads_noncontiguous_tensors_by_rows() -> None:
    matrix = torch.arange(6.0).view(2, 3).T
    assert flatten([matrix, torch.tensor(9.0)]).tolist() == [0, 3, 1, 4, 2, 5, 9]


@pytest.mark.parametrize("length", [4, 6])
def test_unflatten_refuses_a_vector_of_another_length(length: int) -> None:
    with pytest.raises(RuntimeError):
        unflatten(torch.zeros(length), [torch.zeros(2, 2), torch.zeros(())])


def matrices(*shapes: tuple[int, int], seed: int) -> list[tuple[Tensor, LinearOperator]]:
    dense = [randn(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    return [(matrix, from_dense(matrix)) for matrix in dense]


def agree(operator: LinearOperator, matrix: Tensor, seed: int) -> None:
    """The shape, both products and the dense form are those of the matrix."""
    rows, columns = matrix.shape
    assert operator.shape == (rows, columns)
    v, u = randn(columns, seed=seed + 91), randn(rows, seed=seed + 92)
    assert_close(operator @ v, matrix @ v, 1e-13)
    assert_close(operator.T @ u, matrix.T @ u, 1e-13)
    assert_close(operator.dense(), matrix, 1e-13)
    assert_close(operator.T.dense(), matrix.T, 1e-13)


@given(sizes, sizes, numbers, numbers, seeds)
def test_sums_differences_and_multiples(
    rows: int, columns: int, a: float, b: float, seed: int
) -> None:
    (A, opA), (B, opB) = matrices((rows, columns), (rows, columns), seed=seed)
    agree(opA + opB, A + B, seed)
    agree(opA - opB, A - B, seed)
    agree(-opA, -A, seed)
    agree(a * opA, a * A, seed)
    agree(opA * a, a * A, seed)
    agree(a * (opA + b * opB), a * (A + b * B), seed)


@given(sizes, sizes, sizes, sizes, seeds)
def test_products_and_their_transposes(m: int, k: int, n: int, p: int, seed: int) -> None:
    (A, opA), (B, opB), (C, opC) = matrices((m, k), (k, n), (n, p), seed=seed)
    agree(opA @ opB, A @ B, seed)
    agree((opA @ opB).T, B.T @ A.T, seed)
    agree((opA @ opB) @ opC, A @ B @ C, seed)
    agree(opA @ (opB @ opC), A @ B @ C, seed)
    agree(opA.T @ opA, A.T @ A, seed)


@given(sizes, sizes, seeds)
def test_transposing_twice_changes_nothing(rows: int, columns: int, seed: int) -> None:
    ((A, opA),) = matrices((rows, columns), seed=seed)
    agree(opA.T.T, A, seed)


@given(sizes, sizes, sizes, seeds)
def test_a_matrix_of_vectors_is_multiplied_column_by_column(
    m: int, n: int, k: int, seed: int
) -> None:
    ((A, opA),) = matrices((m, n), seed=seed)
    V = randn(n, k, seed=seed + 5)
    assert_close(opA @ V, A @ V, 1e-13)


@given(sizes, numbers, seeds)
def test_damping_adds_a_multiple_of_the_identity(n: int, damping: float, seed: int) -> None:
    ((A, opA),) = matrices((n, n), seed=seed)
    agree(damped(opA, damping), A + damping * torch.eye(n), seed)
    agree(identity(n), torch.eye(n), seed)


def test_dtypes_are_those_asked_for() -> None:
    assert identity(3).dtype is torch.float64
    assert identity(3, dtype=torch.float32).dense().dtype is torch.float32
    single = from_dense(torch.eye(2, dtype=torch.float32))
    assert damped(single, 0.5).dtype is torch.float32
    assert damped(single, 0.5).dense().dtype is torch.float32


def test_shapes_that_do_not_fit_are_refused_with_both_named() -> None:
    ((_, A), (_, B)) = matrices((2, 3), (2, 4), seed=0)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        A @ B
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        A + B
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        A - B
    with pytest.raises(ValueError, match="3 columns meet 2 rows"):
        A @ torch.zeros(2)
    with pytest.raises(ValueError, match="3 columns meet 2 rows"):
        A @ torch.zeros(2, 3)


def test_an_expression_is_evaluated_only_when_it_meets_a_vector() -> None:
    calls = []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        return 2 * v

    A = LinearOperator((3, 3), product, product, torch.float64, torch.device("cpu"))
    B = A.T @ A + 3 * A
    assert not calls
    assert_close(B @ torch.ones(3), torch.full((3,), 10.0))
    assert len(calls) == 3
