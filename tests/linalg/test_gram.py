"""The Gram matrix of factors, by every way it can be formed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import randn
from torch_newton.linalg import gram as module
from torch_newton.linalg.factor import Factor
from torch_newton.linalg.gram import add_pairs, gram, mirror

pytestmark = pytest.mark.usefixtures("float64")

BLOCKS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=4
).filter(lambda blocks: max(uses for _, uses in blocks) > 0)  # fmt: skip


def factor_of(blocks: list[tuple[int, int]], a: int, b: int) -> Factor:
    rows, most = sum(rows for rows, _ in blocks), max(uses for _, uses in blocks)
    left, right = randn(rows, most, a), randn(rows, most, b, seed=1)
    start = 0
    for count, uses in blocks:
        left[start : start + count, uses:] = 0
        right[start : start + count, uses:] = 0
        start += count
    return Factor(left, right, tuple(blocks))


def check(factors: list[Factor]) -> None:
    J = torch.cat([factor.dense() for factor in factors], 1)
    found = gram(factors)
    size = float(J.abs().max()) ** 2 * J.shape[1]
    torch.testing.assert_close(found, J @ J.T, rtol=0, atol=1e-14 * size)
    assert torch.equal(found, found.T)


@given(blocks=BLOCKS, a=st.integers(1, 6), b=st.integers(1, 6), pair=st.sampled_from([0.01, 100.0]))
def test_blocks_of_rows_with_different_uses(
    blocks: list[tuple[int, int]], a: int, b: int, pair: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NARROW", 0)
        patch.setattr(module, "PAIR", pair)
        patch.setattr(module, "SMALL", 5)
        check([factor_of(blocks, a, b)])


@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.parametrize("rows", [7, 400])
@pytest.mark.parametrize("width", [3, 40])
def test_weights_and_biases_that_share_their_cotangents(rows: int, width: int, uses: int) -> None:
    factor = factor_of([(rows, uses)], width, width)
    other = factor_of([(rows, 1)], width, 2)
    check([factor, Factor(factor.left, None), other, Factor(randn(rows, 1, 5, seed=3), None)])


def test_only_biases() -> None:
    check([Factor(randn(5, 2, 3), None)])


def test_the_lower_half_is_enough_for_the_mirror() -> None:
    full = randn(400, 400)
    full = full + full.T
    torch.testing.assert_close(mirror(full.tril()), full)


def test_pairs_between_different_rows() -> None:
    one, other = factor_of([(6, 2)], 3, 4), factor_of([(5, 3)], 3, 4)
    total = torch.zeros(6, 5)

    def parts(factor: Factor) -> tuple[Tensor, Tensor]:
        assert factor.right is not None
        return factor.left, factor.right

    add_pairs(total, parts(one), parts(other))
    torch.testing.assert_close(total, one.dense() @ other.dense().T)


def test_every_bias_of_a_layer_counts() -> None:
    factor = factor_of([(20, 1)], 40, 40)
    check([factor, Factor(factor.left, None), Factor(factor.left, None)])
