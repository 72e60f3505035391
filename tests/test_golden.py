"""RegNewton repeats its golden trajectories: thirty steps of twelve benchmark problems.

A refactoring must leave them as they are; ``python -m tests.golden.record`` says how they are made.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.golden import record

GOLDEN = json.loads(record.FILE.read_text())
HERE = record.machine() == GOLDEN["machine"]
# One seed in every run, the other with the slow tests.
CASES = [
    pytest.param(*key, id="-".join(map(str, key)), marks=[pytest.mark.slow] if key[1] else [])
    for key in record.cases()
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:H \\+ lambda I is not positive definite"),
    pytest.mark.filterwarnings("ignore:the loss is not finite after a step"),
    pytest.mark.filterwarnings("ignore:the linear system of a step"),
]


def golden(name: str, seed: int, damping: str) -> dict[str, Any]:
    run = GOLDEN["runs"][f"{name}/{seed}/{damping}"]
    numbers = {key: [float.fromhex(x) for x in run[key]] for key in ("loss", "damping")}
    return {**run, **numbers}


@cache
def found(name: str, seed: int, damping: str) -> dict[str, list[Any]]:
    return record.trajectory(name, seed, damping)


@pytest.mark.skipif(not HERE, reason="recorded with another processor or PyTorch")
@pytest.mark.parametrize(("name", "seed", "damping"), CASES)
def test_every_step_is_the_same_bit_for_bit(name: str, seed: int, damping: str) -> None:
    expected, actual = golden(name, seed, damping), found(name, seed, damping)
    for key in ("loss", "damping", "system"):
        assert actual[key] == expected[key], key


@pytest.mark.parametrize(("name", "seed", "damping"), CASES)
def test_steps_within_the_horizon_are_the_same_to_1e_10(name: str, seed: int, damping: str) -> None:
    """On any machine; beyond the horizon a change of one part in 10^15 is amplified to 1e-11."""
    expected, actual = golden(name, seed, damping), found(name, seed, damping)
    assert expected["horizon"] > 0
    assert record.horizon(expected, actual, 1e-10) >= expected["horizon"]


def test_the_horizons_say_something() -> None:
    """Of all steps recorded, a good share is within the horizon: the fixed damping, at which
    truncated indefinite solves amplify rounding at once, has hardly more than one step each."""
    horizons = [run["horizon"] for run in GOLDEN["runs"].values()]
    assert len(horizons) == len(list(record.cases()))
    assert sum(horizons) > 0.2 * record.STEPS * len(horizons)
