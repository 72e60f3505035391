"""Expressions of operators, and what wraps them, against their dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import assert_close, randn
from torch_newton import LinearOperator, damped, from_dense, identity
from torch_newton.autodiff.finite_difference import NonFiniteProductError, finite
from torch_newton.closure.distributed import Ranks
from torch_newton.linalg.operators import congruent

pytestmark = pytest.mark.usefixtures("float64")

sizes = st.integers(1, 6)
seeds = st.integers(0, 10_000)
numbers = st.floats(-8, 8, allow_nan=False)


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


class Counting:
    """A symmetric matrix as an operator that counts its products with vectors and with matrices."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.vectors = self.matrices = 0

    def matvec(self, v: Tensor) -> Tensor:
        self.vectors += 1
        return self.matrix @ v

    def matmat(self, V: Tensor) -> Tensor:
        self.matrices += 1
        return self.matrix @ V

    def operator(self) -> LinearOperator:
        n, kind = len(self.matrix), self.matrix
        products = (self.matvec, self.matvec)
        return LinearOperator((n, n), *products, kind.dtype, kind.device, self.matmat, self.matmat)


def averaged(A: LinearOperator) -> LinearOperator:
    """The mean over two ranks that hold the same."""
    ranks = Ranks()
    ranks.several = ranks._met = True
    ranks.mean = lambda vector: (vector + vector) / 2  # type: ignore[method-assign]
    return ranks.averaged(A)


@pytest.mark.parametrize(
    "wrap",
    [
        finite,
        averaged,
        lambda A: congruent(A, torch.linspace(0.5, 2.0, 6)),
        lambda A: damped(A, 0.3),
        lambda A: damped(congruent(finite(averaged(A)), torch.linspace(0.5, 2.0, 6)), 0.3),
    ],
    ids=["finite", "averaged", "congruent", "damped", "all of them"],
)
def test_what_wraps_an_operator_keeps_its_products_with_matrices(
    wrap: Callable[[LinearOperator], LinearOperator],
) -> None:
    matrix = randn(6, 6)
    counting = Counting(matrix + matrix.T)
    wrapped = wrap(counting.operator())
    dense = wrapped.dense()
    assert (counting.vectors, counting.matrices) == (0, 1)
    columns = torch.stack([wrapped @ column for column in torch.eye(6)], dim=1)
    assert counting.vectors == 6
    assert_close(dense, columns, 1e-12)
    singly = wrap(replace(counting.operator(), matmat=None, rmatmat=None))
    assert_close(singly.dense(), dense, 1e-12)


def test_a_column_that_is_not_finite_raises_unless_it_was_not_before() -> None:
    A = finite(from_dense(torch.diag(torch.tensor([1.0, torch.inf, 1.0]))))
    V = torch.eye(3)
    # 0 times infinity is not finite either, so that every finite vector is refused here.
    with pytest.raises(NonFiniteProductError):
        A @ V[:, :1]
    with pytest.raises(NonFiniteProductError):
        A.dense()
    B = finite(from_dense(torch.ones(3, 3)))
    V[1, 1] = torch.nan
    assert torch.equal(torch.isfinite(B @ V).all(0), torch.tensor([True, False, True]))
