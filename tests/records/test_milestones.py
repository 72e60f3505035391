"""Steps to milestones, counted without a clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("tqdm")

from examples.records import milestones
from examples.records.milestones import Count
from examples.records.problem import Milestone
from examples.records.problems import PROBLEMS

GOALS = (Milestone(0.5, "first", steps=20), Milestone(1e-9, "never", steps=3))
HEAT = replace(PROBLEMS["heat-1d"], milestones=GOALS)


def test_steps_are_counted_to_each_milestone() -> None:
    found = milestones.count(HEAT, 0)
    assert 1 <= found.steps[0] <= 20
    assert found.steps[1] is None
    assert found.error < 0.5
    assert milestones.count(HEAT, 0) == found


def test_seeds_that_miss_count_as_slower() -> None:
    assert milestones.median([7, 3, None]) == "7"
    assert milestones.median([7, None, None]) == "-"
    assert milestones.median([3, None]) == "-"


def test_a_miss_is_shown_with_its_lowest_error() -> None:
    first, never = milestones.lines(HEAT, [Count([5, None], 2e-3), Count([6, None], 1e-3)])
    assert first == "| `heat-1d` | 5e-01 | 5.5 | 5, 6 | 20 (first) |"
    assert "| - (2.0e-03), - (1.0e-03) | 3 (never) |" in never


def test_the_command_keeps_what_it_has_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(milestones.PROBLEMS, "heat-1d", HEAT)
    monkeypatch.setattr(
        "sys.argv", f"x --problems heat-1d --seeds 0 --threads 1 --output {tmp_path}".split()
    )
    milestones.main()
    first = capsys.readouterr().out
    monkeypatch.setattr(milestones, "count", None)
    milestones.main()
    assert capsys.readouterr().out == first
