"""A step takes the operations and bytes that .docs/pages/reference/cost.md states."""

from __future__ import annotations

import pytest
import torch

from examples.benchmarks.cost import DIRECT, PLAIN, Counter, Problem, model_of

ITERATIONS = PLAIN | {"cg_max_iter": 5}


def test_the_counter_counts_products_factors_and_what_they_move() -> None:
    A, b = torch.ones(3, 4), torch.ones(4, 5)
    with Counter() as counter:
        A @ b
        A @ b[:, 0]
        torch.linalg.cholesky_ex(torch.eye(3))
    assert counter.operations == 2 * 3 * 4 * 5 + 2 * 3 * 4 + 3**3 // 3
    assert counter.bytes >= 4 * (12 + 20 + 15 + 12 + 4 + 3 + 9 + 9)


@pytest.mark.parametrize(
    "problem",
    [
        Problem(50, 60, 1, ITERATIONS),
        Problem(500, 60, 1, ITERATIONS),
        Problem(50, 60, 10, ITERATIONS),
        Problem(30, 60, 1, DIRECT),
        Problem(300, 60, 1, DIRECT),
        Problem(30, 60, 10, DIRECT),
        Problem(1000, 15, 1, DIRECT),
    ],
    ids=lambda problem: f"{problem.rows} rows, {problem.size} parameters",
)
def test_a_step_costs_what_the_page_says(problem: Problem) -> None:
    with problem.counted() as (counter, step):
        operations, numbers = model_of(problem, step)
    # The first layer has no derivative in its inputs, 8 of the 60 or 15 units of the next.
    assert 0.75 <= counter.operations / operations <= 1.05
    assert 0.75 <= counter.bytes / 8 / numbers <= 1.3
