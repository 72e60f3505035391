"""Factors of several uses and of several terms, put together, are the sum and the stack of rows."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import assert_close, randn
from torch_newton.graph.assembly import joined, stack
from torch_newton.linalg.factor import Factor

pytestmark = pytest.mark.usefixtures("float64")


def of(rows: int, uses: int, a: int, b: int | None, seed: int = 0) -> Factor:
    right = None if b is None else randn(rows, uses, b, seed=seed + 1)
    return Factor(randn(rows, uses, a, seed=seed), right)


@pytest.mark.parametrize(
    "factors",
    [
        [of(5, 1, 30, 40), of(5, 2, 30, 40, 2)],
        [of(5, 1, 6, 2), of(5, 1, 12, None, 2)],
        [of(5, 1, 12, None), of(5, 3, 12, None, 2)],
        [of(5, 9, 3, 2)],
    ],
    ids=["both as products", "of both kinds", "both as rows", "more uses than entries"],
)
def test_uses_of_one_parameter_add_up(factors: list[Factor]) -> None:
    assert_close(joined(factors).dense(), sum((f.dense() for f in factors[1:]), factors[0].dense()))


def test_terms_are_stacked_whatever_the_form_of_their_rows() -> None:
    params = [torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 4), torch.zeros(3, 4)]
    one, two = of(5, 1, 3, 4), of(6, 2, 3, 4, 2)
    parts = [
        {0: one, 1: Factor(one.left, None), 2: of(5, 1, 12, None, 4), 3: of(5, 1, 12, None, 6)},
        {0: two, 1: Factor(two.left, None), 2: two, 3: of(6, 1, 3, 4, 8)},
    ]
    J = stack(parts, params, [5, 6])
    expected = [torch.cat([part[i].dense() for i in range(4)], 1) for part in parts]
    assert_close(J.dense(), torch.cat(expected), 1e-14)
    weight, bias, *_ = J.factors
    assert weight is not None
    assert bias is not None
    assert weight.layer == bias.layer
    assert weight.uses == ((5, 1), (6, 2))


def test_a_term_that_does_not_depend_on_a_parameter_has_zero_rows_there() -> None:
    params, only = [torch.zeros(2, 2), torch.zeros(3)], of(4, 1, 2, 2)
    J = stack([{0: only}, {}], params, [4, 3])
    assert J.factors[1] is None
    assert not J.dense()[4:].any()
    assert_close(J.dense()[:4, :4], only.dense())
