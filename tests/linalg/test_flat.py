"""Tensors as one vector and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import randn
from torch_newton.linalg import flat
from torch_newton.linalg.flat import add_multiple_, all_finite, flatten, unflatten

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


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


@given(st.integers(1, 40), st.floats(-1e3, 1e3), seeds)
def test_adding_a_multiple_in_pieces_rounds_as_the_expression_does(
    n: int, factor: float, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "CHUNK", 7)
        y, x = randn(n, seed=seed), randn(n, seed=seed + 1)
        expected = y + factor * x
        assert add_multiple_(y, factor, x) is y
        assert torch.equal(y, expected)


def test_finite_although_the_square_overflows() -> None:
    v = torch.tensor([1e200, 1.0])
    assert all_finite(v)
    assert not all_finite(torch.tensor([1e200, torch.nan]))
    assert not all_finite(torch.tensor([torch.inf]))
