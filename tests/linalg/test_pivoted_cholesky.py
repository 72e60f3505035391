"""Randomly pivoted Cholesky factors of kernels, against the kernels themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import randn
from torch_newton.linalg.factor import Factor
from torch_newton.linalg.factored_jacobian import FactoredJacobian
from torch_newton.linalg.indexed_factor import IndexedFactor
from torch_newton.linalg.kernel_columns import kernel_columns
from torch_newton.linalg.pivoted_cholesky import PANEL, PivotedCholesky, accepted

pytestmark = pytest.mark.usefixtures("float64")


def jacobian(
    rows: int = 40, inner: int = 30, uses: int = 1, decay: float = 0.0
) -> FactoredJacobian:
    """Rows of a weight matrix, its bias, a table and one parameter that nothing depends on."""
    scale = torch.exp(-decay * torch.arange(rows))[:, None, None]
    left = scale * randn(rows * uses, inner, seed=1).reshape(rows, uses, inner)
    right = randn(rows * uses, 20, seed=2).reshape(rows, uses, 20)
    index = torch.arange(2 * rows).reshape(rows, 2) * 7 % 15
    table = IndexedFactor.of(index, scale * randn(2 * rows, 3, seed=3).reshape(rows, 2, 3), 15)
    factors: list[Factor | None] = [Factor(left, right), Factor(left, None), table, None]
    like = [torch.zeros(n) for n in (inner * 20, inner, 45, 4)]
    return FactoredJacobian(factors, like, rows)


@pytest.mark.parametrize("uses", [1, 3])
@pytest.mark.parametrize("inner", [4, 30])
def test_columns_are_those_of_the_kernel(inner: int, uses: int) -> None:
    J = jacobian(inner=inner, uses=uses)
    chosen = J.take(torch.tensor([3, 39, 0]), torch.tensor([1.0, -2.0, 0.5]))
    torch.testing.assert_close(kernel_columns(J, chosen), J.dense() @ chosen.dense().T)


def grown(J: FactoredJacobian, rank: int, block: int) -> PivotedCholesky:
    found = PivotedCholesky(J)
    while found.rank < rank and not found.exhausted:
        found.extend(min(block, rank - found.rank))
    return found


@settings(max_examples=25, deadline=None)
@given(
    rank=st.integers(1, 40),
    block=st.integers(1, 40),
    decay=st.floats(0.0, 0.5),
    uses=st.integers(1, 3),
)
def test_what_is_left_is_semidefinite_and_has_the_trace_it_says(
    rank: int, block: int, decay: float, uses: int
) -> None:
    J = jacobian(uses=uses, decay=decay)
    found, K = grown(J, rank, block), J.dense() @ J.dense().T
    left = K - found.factor @ found.factor.T
    assert float(torch.linalg.eigvalsh(left)[0]) >= -1e-10 * float(K.trace())
    assert found.trace_left == pytest.approx(float(left.trace()), abs=1e-10 * float(K.trace()))
    torch.testing.assert_close(found.left, left.diagonal(), rtol=0, atol=1e-10 * float(K.trace()))
    assert len(set(found.pivots)) == found.rank == found.factor.shape[1]
    S = torch.tensor(found.pivots)
    torch.testing.assert_close(found.triangle @ found.triangle.T, K[S][:, S])
    rows = torch.linalg.solve_triangular(found.triangle, found.rows.dense(), upper=False)
    torch.testing.assert_close(rows @ rows.T, torch.eye(found.rank), rtol=0, atol=1e-6)
    torch.testing.assert_close(J.dense() @ rows.T, found.factor, rtol=0, atol=1e-8)


def test_of_full_rank_it_is_exact() -> None:
    J = jacobian()
    found = grown(J, 40, 7)
    K = J.dense() @ J.dense().T
    assert found.exhausted
    torch.testing.assert_close(found.factor @ found.factor.T, K)


def test_a_kernel_of_low_rank_is_exhausted_at_its_rank() -> None:
    basis = randn(5, 12)
    J = FactoredJacobian([Factor((randn(60, 5) @ basis)[:, None], None)], [torch.zeros(12)], 60)
    found = grown(J, 60, 20)
    assert found.rank == 5
    assert found.exhausted
    assert found.extend() == 0


def test_rows_that_repeat_others_are_rejected() -> None:
    row = randn(1, 12)
    J = FactoredJacobian([Factor(row.expand(9, 12)[:, None], None)], [torch.zeros(12)], 9)
    assert PivotedCholesky(J).extend(9) == 1
    found = PivotedCholesky(J)
    assert found.extend(proposed=[4, 4, 2, 100, -1]) == 1
    assert found.pivots == [4]


def test_zero_has_no_factor() -> None:
    J = FactoredJacobian([None], [torch.zeros(3)], 4)
    found = PivotedCholesky(J)
    assert found.extend() == 0
    assert found.factor.shape == (4, 0)


def test_proposed_rows_are_taken_in_their_order() -> None:
    first = grown(jacobian(), 12, 12)
    again = PivotedCholesky(jacobian())
    again.extend(proposed=first.pivots)
    assert again.pivots == first.pivots
    torch.testing.assert_close(again.factor, first.factor)


def test_draws_repeat_and_leave_the_users_generator_alone() -> None:
    state = torch.get_rng_state()
    assert grown(jacobian(), 20, 10).pivots == grown(jacobian(), 20, 10).pivots
    assert torch.equal(torch.get_rng_state(), state)


def test_in_single_precision_the_basis_stays_orthonormal() -> None:
    exact = jacobian(decay=0.3)
    factors = [f and _single(f) for f in exact.factors]
    J = FactoredJacobian(factors, [like.float() for like in exact.like], 40)
    found = grown(J, 40, 10)
    rows = found.rows.dense().double()
    basis = torch.linalg.solve_triangular(found.triangle, rows, upper=False)
    assert found.exhausted
    assert found.factor.dtype == torch.float32
    torch.testing.assert_close(basis @ basis.T, torch.eye(found.rank), rtol=0, atol=1e-3)


def _single(factor: Factor) -> Factor:
    from dataclasses import replace

    right = None if factor.right is None else factor.right.float()
    return replace(factor, left=factor.left.float(), right=right)


def test_a_row_is_kept_by_what_the_others_leave_of_it() -> None:
    matrix = torch.tensor([[4.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1e-9]])
    # The first leaves 1 of the 2 of the second.
    assert accepted(matrix, [0.9, 0.4, 0.0], 1e-8) == [0, 1]
    assert accepted(matrix, [0.9, 0.6, 0.0], 0.0) == [0, 2]


def test_panels_keep_the_rows_that_one_row_at_a_time_does() -> None:
    rows = randn(200, 90)
    matrix = rows @ rows.T
    luck = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    found, remaining = [], matrix.clone()
    for i, share in enumerate(luck):
        if remaining[i, i] > max(1e-9, share * float(matrix[i, i])):
            found.append(i)
            remaining -= torch.outer(remaining[i], remaining[i]) / remaining[i, i]
    assert PANEL < found[-1] < 200
    assert accepted(matrix, luck, 1e-9) == found


def _kernel(J: FactoredJacobian) -> Tensor:
    return J.dense() @ J.dense().T


def test_few_rows_take_up_a_kernel_that_decays() -> None:
    """As many rows drawn uniformly leave far more of the trace."""
    x = torch.linspace(0, 1, 300)
    features = torch.exp(-0.5 * ((x[:, None] - torch.linspace(0, 1, 200)) / 0.1) ** 2)
    J = FactoredJacobian([Factor(features[:, None], None)], [torch.zeros(200)], 300)
    found = grown(J, 15, 15)
    uniform = PivotedCholesky(J)
    uniform.extend(
        proposed=torch.randperm(300, generator=torch.Generator().manual_seed(0))[:15].tolist()
    )
    assert found.rank == 15
    assert found.trace_left < 0.5 * uniform.trace_left
    # No approximation of this rank is better than the eigenvectors'.
    best = torch.linalg.eigvalsh(_kernel(J))[:-15].clamp_min(0).sum()
    assert found.trace_left < 100 * float(best)
