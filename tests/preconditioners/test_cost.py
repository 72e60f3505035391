"""Which solve is worth its cost, counted from shapes."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import mlp, randn
from torch_newton import RegNewton
from torch_newton.linalg.factor import Factor
from torch_newton.linalg.indexed_factor import IndexedFactor
from torch_newton.preconditioners import cost

DOUBLE = 8


@pytest.mark.parametrize(
    ("rows", "size", "direct"),
    [
        (3000, 10**6, True),
        (200_000, 250, True),
        (3500, 10_065, True),  # Poisson's equation in five variables: worth twice the time
        (10_456, 7_851, False),  # Burgers' equation: 13 s a step against 2
        (73_728, 1_361, True),
        (10_000, 10_000, False),
    ],
)
def test_a_factor_is_formed_where_it_costs_no_more_than_it_is_worth(
    rows: int, size: int, direct: bool
) -> None:
    assert cost.worth_a_factor(rows, size, DOUBLE) is direct


@pytest.mark.parametrize(("rows", "size"), [(500, 2000), (2000, 500)])
def test_no_factor_is_formed_that_exceeds_the_memory(rows: int, size: int) -> None:
    needed = cost.direct_bytes(rows, size, DOUBLE)
    assert cost.worth_a_factor(rows, size, DOUBLE, max_memory=needed)
    assert not cost.worth_a_factor(rows, size, DOUBLE, max_memory=needed - 1)


def test_half_the_digits_take_half_the_memory() -> None:
    assert cost.direct_bytes(100, 300, 4) * 2 == cost.direct_bytes(100, 300, 8)


def test_an_entry_costs_what_the_cheaper_way_takes() -> None:
    wide = Factor(torch.zeros(10, 1, 300), torch.zeros(10, 1, 300))
    formed = Factor(torch.zeros(10, 1, 8), torch.zeros(10, 1, 8))
    many = Factor(torch.zeros(10, 30, 20), torch.zeros(10, 30, 20))
    bias = Factor(torch.zeros(10, 1, 8), None)
    table = IndexedFactor(
        torch.zeros(10, 1, 4), None, index=torch.zeros(10, 1, dtype=torch.long), number=10**6
    )
    assert cost.entry_operations([wide], 10**9) == pytest.approx(cost.PAIR * 600)
    assert cost.entry_operations([formed, bias, None], 10) == 72
    assert cost.entry_operations([many], 10**9) == pytest.approx(400)
    assert cost.entry_operations([table], 10) < 1


def test_the_user_bounds_the_memory() -> None:
    net, x = mlp(2, 5, 1), randn(30, 2)
    paths = []
    for bytes_ in (None, 10**6, 1000):
        optimizer = RegNewton(net.parameters(), max_memory=bytes_)

        def closure(optimizer: RegNewton = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert optimizer.last_step is not None
        paths.append(optimizer.last_step.path.name)
    assert paths == ["FUNCTION_SPACE", "FUNCTION_SPACE", "LOW_RANK"]
    with pytest.raises(ValueError, match="max_memory must be a positive integer or None"):
        RegNewton(net.parameters(), max_memory=0)
