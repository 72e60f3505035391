"""What is logged of steps, and that nothing but the text depends on the time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torch_newton.optimizer
from tests.helpers import closure_of, mlp, randn
from torch_newton import Path, RegNewton, Step
from torch_newton.newton.report import LOGGER, sentence, slow

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def logger() -> Iterator[None]:
    """The logger as it was."""
    level, handlers = LOGGER.level, list(LOGGER.handlers)
    yield
    LOGGER.setLevel(level)
    LOGGER.handlers[:] = handlers


def train(steps: int, **options: object) -> RegNewton:
    model, x, y = mlp(2, 4, 1), randn(9, 2), randn(9, 1, seed=1)
    optimizer = RegNewton(model.parameters(), **options)  # type: ignore[arg-type]
    closure = closure_of(optimizer, lambda: functional.mse_loss(model(x), y))
    for _ in range(steps):
        optimizer.step(closure)
    return optimizer


def last(optimizer: RegNewton) -> Step:
    assert optimizer.last_step is not None
    return optimizer.last_step


def test_a_line_for_each_step_where_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "torch_newton"):
        train(3)
        assert not caplog.messages
        optimizer = train(3, verbose=True)
    assert len(caplog.messages) == 3
    step = last(optimizer)
    assert caplog.messages[-1] == sentence(step)
    for part in ("step 3: loss ", f"to {step.loss_after:.6g}", "ratio", str(step.system)):
        assert part in caplog.messages[-1]


def test_lines_say_what_was_refused_and_when_training_rests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = RegNewton([x], verbose=True)

    def loss() -> Tensor:
        return x.square().sum() * (1.0 if bool((x == 1).all()) else math.nan)

    with caplog.at_level(logging.INFO, "torch_newton"):
        for _ in range(21):
            optimizer.step(closure_of(optimizer, loss))
    assert "loss 2 stays, 8 lambdas refused" in caplog.messages[0]
    assert "one lambda refused" in caplog.messages[-1]
    assert "at rest: the loss has not fallen" in caplog.messages[-1]


def test_the_summary_is_of_plain_numbers() -> None:
    step = last(train(2))
    assert step.summary() == {
        "loss": step.loss_after,
        "damping": step.damping,
        "ratio": step.ratio,
        "length": step.step_length,
    }
    assert replace(step, loss_after=math.nan).summary()["loss"] == step.loss


def test_steps_that_take_long_say_so_once_and_are_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = last(train(4))
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(torch_newton.optimizer, "perf_counter", lambda: float(next(clock)))
    found = last(train(4))
    assert found.loss == expected.loss
    assert found.loss_after == expected.loss_after
    (message,) = caplog.messages
    assert message.startswith("a step took 7 s")


def test_each_way_of_solving_has_a_way_out() -> None:
    step = last(train(2))
    for changed, cure in (
        (replace(step, path=Path.FUNCTION_SPACE), "fewer samples"),
        (replace(step, path=Path.PLAIN), "cg_max_iter"),
        (replace(step, path=Path.KRONECKER), "smaller mini-batches"),
        (replace(step, unread=("number 0 (AddmmBackward0 mixes samples)",)), "mixes samples"),
    ):
        assert cure in str(slow(changed, 9.0))
        assert slow(changed, 1.0) is None
    assert slow(replace(step, iteration=1), 9.0) is None
