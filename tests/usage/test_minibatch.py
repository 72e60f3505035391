"""The benchmark in mini-batches: its problems, and what it measures."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.benchmarks.minibatch import training
from examples.benchmarks.minibatch.contenders import peers
from examples.benchmarks.minibatch.problems import PROBLEMS
from examples.benchmarks.minibatch.training import Run, train


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_the_same_for_the_same_seed(name: str) -> None:
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        problem = PROBLEMS[name](1)
        losses.append([problem.loss(next(problem.batches)).item() for _ in range(2)])
        assert math.isfinite(problem.evaluate())
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_the_sizes_are_those_of_the_issue() -> None:
    sizes = {
        name: sum(p.numel() for p in PROBLEMS[name](0).net.parameters())
        for name in ("heat", "poisson", "gpt")
    }
    assert sizes["heat"] == 116_865
    assert sizes["poisson"] == 10_065
    assert 7e5 < sizes["gpt"] < 1.2e6


def test_a_loss_is_reached_at_the_first_step_as_small() -> None:
    run = Run([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], [3.0, 1.0, 2.0, 0.5])
    assert run.reached(1.0) == (2, 0.2)
    assert run.reached(0.1) == (math.inf, math.inf)
    assert run.end == 1.5


def test_newton_and_peers_are_trained_by_the_same_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.time, "perf_counter", iter(range(1000)).__next__)
    ours = train("digits_dense", 0, "kronecker", 1.0, seconds=6)
    theirs = train("digits_dense", 0, peers()["adamw"], 1e-3, seconds=6)
    assert ours.steps == theirs.steps == [1, 2, 3, 4, 5, 6]
    assert theirs.gradients == 1.0
    assert 1 < ours.gradients < 3
    assert ours.losses[-1] < ours.losses[0]
    assert 0 < ours.accuracy <= 1
