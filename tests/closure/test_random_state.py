"""The generators that a closure may draw from, set back between evaluations."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from torch_newton import RegNewton
from torch_newton.closure.random_state import RandomState

# ruff: noqa: NPY002 - the legacy generator is what is tested


@pytest.fixture(autouse=True)
def left_alone() -> Iterator[None]:
    before = RandomState.now([])
    yield
    before.restore()


def draws() -> list[float]:
    return [float(torch.rand(())), random.random(), np.random.random(), np.random.normal()]


@pytest.mark.parametrize("normals", [0, 1, 2])
def test_restored_generators_draw_the_same(normals: int) -> None:
    np.random.seed(3)
    np.random.normal(size=normals)
    state = RandomState.now([])
    first = draws()
    for _ in range(3):
        state.restore()
        assert draws() == first


@pytest.mark.parametrize("draw", [None, random.random, np.random.random, np.random.normal])
def test_only_generators_that_were_drawn_from_are_set_back(draw: Callable | None) -> None:
    np.random.seed(3)
    np.random.normal()
    before = RandomState.now([])
    if draw is not None:
        draw()
    drawn = before.unlike(RandomState.now([]))
    assert (drawn.python is not None) == (draw is random.random)
    assert (drawn.numpy is not None) == (draw in (np.random.random, np.random.normal))
    expected = draws()
    if draw is None:
        return
    drawn.restore()
    assert draws() != expected
    before.restore()
    first = draws()
    drawn.restore()
    assert first[:1] == draws()[:1]


def test_another_generator_of_numpy_is_set_back_too() -> None:
    if not hasattr(np.random, "set_bit_generator"):
        pytest.skip("this NumPy has one generator")
    own = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        before = RandomState.now([])
        assert before.unlike(RandomState.now([])).numpy is None
        first = draws()
        drawn = before.unlike(RandomState.now([]))
        drawn.restore()
        assert draws() == first
    finally:
        np.random.set_bit_generator(own)


def test_nothing_is_asked_of_a_numpy_that_nobody_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy.random")
    state = RandomState.now([])
    assert state.numpy is None
    state.restore()


def test_a_closure_that_draws_sees_the_same_numbers_in_every_evaluation() -> None:
    x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    optimizer = RegNewton([x])
    seen: list[list[float]] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        seen.append(draws())
        loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2 + 1e-3 * seen[-1][2]
        loss.backward()
        return loss

    for _ in range(10):
        seen.clear()
        before = RandomState.now([])
        optimizer.step(closure)
        assert len(seen) > 1
        assert all(numbers == seen[0] for numbers in seen)
        after = draws()
        before.restore()
        draws()
        assert draws() == after
