"""Rows that would take too much memory are not read, and the step is solved without them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torch_newton import RegNewton, find_residuals
from torch_newton.graph.guard import UnreadableGraphWarning
from torch_newton.preconditioners import cost, held_rows
from torch_newton.step import Path, Step

LINEAR = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 5))
CONVOLUTION = nn.Sequential(nn.Conv1d(2, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(80, 5))


def loss_of(model: nn.Module, samples: int) -> Tensor:
    shape = (samples, 6) if model is LINEAR else (samples, 2, 12)
    return nn.functional.mse_loss(model(torch.ones(shape)), torch.zeros(samples, 5))


@pytest.mark.parametrize(
    ("model", "entries"),
    [
        # A weight of a x b takes a + b for each row, and filters are formed.
        (LINEAR, 46 + 45),
        (CONVOLUTION, 48 + 85),
    ],
)
@pytest.mark.parametrize("samples", [30, 100])
def test_the_estimate_counts_factors(
    model: nn.Module, entries: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = list(model.parameters())
    terms = find_residuals(loss_of(model, samples)).of_outputs
    rows = 5 * samples
    monkeypatch.setattr(held_rows, "VECTORS", 0)
    monkeypatch.setattr(held_rows, "MAX_ENTRIES", rows * entries)
    assert held_rows.obstacle(terms, params) is None
    monkeypatch.setattr(held_rows, "MAX_ENTRIES", rows * entries - 1)
    assert held_rows.obstacle(terms, params) is not None


def narrow(samples: int, width: int = 60) -> tuple[RegNewton, Callable[[], Tensor], Any]:
    """An optimizer with a closure, and what makes an optimizer of the same parameters."""
    model = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 1)).double()
    x = torch.linspace(-1, 1, 6 * samples, dtype=torch.float64).reshape(samples, 6)

    def closure() -> Tensor:
        model.zero_grad()
        loss = (model(x) - x[:, :1].sin()).square().mean()
        loss.backward()
        return loss

    return RegNewton(model.parameters()), closure, partial(RegNewton, list(model.parameters()))


def step_of(optimizer: RegNewton, closure: Callable[[], Tensor]) -> Step:
    optimizer.step(closure)
    assert optimizer.last_step is not None
    return optimizer.last_step


BYTES = re.compile(r"max_memory=(\d+)")


def test_rows_of_one_output_may_take_a_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit was a number of entries, whatever memory there was, and nothing said so.
    monkeypatch.setattr(held_rows, "MAX_ENTRIES", 10)
    monkeypatch.setattr(held_rows, "MAX_SIZE", 10)
    optimizer, closure, make = narrow(100)
    assert step_of(optimizer, closure).unread == ()
    entries = 100 * (60 + 6 + 60)  # sides of the first weight, and the second one in full
    monkeypatch.setattr(held_rows, "MAX_MEMORY", held_rows.COPIES * 8 * entries - 1)
    with pytest.warns(UnreadableGraphWarning, match=r"max_memory=\d+ allows them"):
        step = step_of(make(), closure)
    assert step.path is Path.PLAIN
    (reason,) = step.unread
    needed = int(BYTES.findall(reason)[0])
    assert needed == held_rows.COPIES * 8 * entries
    assert step_of(make(max_memory=needed), closure).path is Path.LOW_RANK


def test_with_many_outputs_they_do_where_the_user_says_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_rows, "MAX_ENTRIES", 10)
    monkeypatch.setattr(held_rows, "VECTORS", 0)
    params = list(LINEAR.parameters())
    terms = find_residuals(loss_of(LINEAR, 30)).of_outputs
    reason = held_rows.obstacle(terms, params)
    assert reason is not None
    needed = int(BYTES.findall(reason)[0])
    assert held_rows.obstacle(terms, params, needed) is None
    assert held_rows.obstacle(terms, params, needed - 1) is not None


def test_a_step_says_which_memory_an_exact_factor_needs() -> None:
    _, closure, make = narrow(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who bounds the memory need not be warned of it
        step = step_of(make(max_memory=1000), closure)
    assert step.path is Path.LOW_RANK
    (reason,) = step.unread
    needed = int(BYTES.findall(reason)[0])
    assert needed == cost.direct_bytes(100, 481, 8)
    step = step_of(make(max_memory=needed), closure)
    assert step.path is Path.FUNCTION_SPACE
    assert step.unread == ()


def test_a_step_does_without_rows_that_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_rows, "MAX_ENTRIES", 1000)
    optimizer = RegNewton(LINEAR.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(LINEAR, 30)
        loss.backward()
        return loss

    with pytest.warns(UnreadableGraphWarning, match="allows them"):
        optimizer.step(closure)
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.PLAIN
    assert optimizer.last_step.accepted
