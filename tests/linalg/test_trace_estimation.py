"""The estimated trace against the sum of the eigenvalues."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import (
    symmetric_with,
)
from torch_newton import (
    from_dense,
    identity,
    trace,
)

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


@given(st.integers(1, 40), seeds)
def test_trace_of_a_matrix_of_low_rank_is_exact(n: int, seed: int) -> None:
    values = torch.zeros(n)
    values[: min(n, 3)] = torch.tensor([5.0, -2.0, 1.0])[:n]
    found = trace(from_dense(symmetric_with(values, seed=seed)), seed=seed)
    assert found.value == pytest.approx(float(values.sum()), abs=1e-10)
    assert found.products <= max(n, 30)


def test_trace_lies_within_its_standard_error() -> None:
    values = torch.linspace(-1, 2, 200)
    A = from_dense(symmetric_with(values))
    misses = [
        abs(found.value - float(values.sum())) / found.standard_error
        for found in (trace(A, seed=10 * i) for i in range(40))
    ]
    assert sum(miss < 2 for miss in misses) >= 34
    assert max(misses) < 5
    assert trace(identity(4)).value == 4
