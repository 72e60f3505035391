"""Rows that would take too much memory are not read, and the step is solved without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torch_newton import RegNewton, find_residuals
from torch_newton.preconditioners import held_rows
from torch_newton.step import Path

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
    assert held_rows.holdable(terms, params)
    monkeypatch.setattr(held_rows, "MAX_ENTRIES", rows * entries - 1)
    assert not held_rows.holdable(terms, params)


def test_a_step_does_without_rows_that_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_rows, "MAX_ENTRIES", 1000)
    optimizer = RegNewton(LINEAR.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(LINEAR, 30)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.PLAIN
    assert optimizer.last_step.accepted
