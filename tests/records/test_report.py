"""The record of runs and what is printed of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("tqdm")

from examples.records import __main__ as program
from examples.records import report, runner
from examples.records.contenders import CONTENDERS
from examples.records.problems import PROBLEMS
from examples.records.store import Run, Store

POISSON = PROBLEMS["poisson-2d"]


def finished(seed: int, factor: float = 1.0, budget: float = 30.0) -> Run:
    """Errors 1e-2, 1e-4, ... after 1, 2, ... seconds and 100, 200, ... steps, times a factor."""
    curve = [(float(k), 100 * k, 1.0, factor * 10.0 ** (-2 * k)) for k in range(6)]
    return Run("poisson-2d", "RegNewton", seed, budget, 500, curve=curve)


def test_a_run_is_found_again_if_it_had_the_budget(tmp_path: Path) -> None:
    store, run = Store(tmp_path), finished(0)
    store.add(run)
    assert store.find("poisson-2d", "RegNewton", 0, 30.0) == run
    assert store.find("poisson-2d", "RegNewton", 0, 31.0) is None
    assert store.find("poisson-2d", "RegNewton", 1) is None
    assert store.contenders() == ["RegNewton"]


def test_error_and_time_are_medians_over_seeds() -> None:
    runs = [finished(0), finished(1, 2.0), finished(2, math.inf)]
    assert report.median_error(runs, 2.5) == pytest.approx(2e-4)
    assert report.median_error(runs, 300) is None
    assert report.median_time(runs, 1e-4) == (3.0, 300.0)
    assert report.median_time(runs[1:], 1e-4) is None


def test_the_table_has_our_error_and_our_steps(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(3):
        store.add(finished(seed))
    table = report.table([POISSON], store, [0, 1, 2])
    (line,) = [line for line in table.splitlines() if line.startswith("| poisson-2d")]
    assert "6.1e-08 ENGD, 468 s (GPU)" in line
    assert "| 1.0e-10 | 1.0e-10 | - | - | - |" in line
    assert "1e-06: 300 of 540 (ENGD)" in line
    tally = report.tally([POISSON], store, [0, 1, 2])
    assert "reached: 1 of 1; by a factor of 10: 1" in tally
    assert "where it says so: 1 of 1; milestones in fewer steps: 1 of 1" in tally


def test_seeds_that_ran_shorter_leave_the_longer_ones_their_place(tmp_path: Path) -> None:
    runs = [finished(0, budget=1000.0), finished(1, 3.0)]
    assert report.median_error(runs, 30) == pytest.approx(2e-10)
    assert report.median_error(runs, 1000) == pytest.approx(1e-10)


def test_a_store_with_few_runs_gives_a_table_with_gaps(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(finished(0))
    table = report.table(PROBLEMS.values(), store, [0, 1, 2])
    assert "| heat-1d | 1,020 | 257 | float64 | 2.8e-08 ENGD | - | - | - | - | - |" in table
    assert "reached: 1 of 1" in report.tally(PROBLEMS.values(), store, [0, 1, 2])
    assert "best peer: 0 of 0" in report.won(PROBLEMS.values(), store, [0])


def test_factors_are_those_to_the_best_peer_at_the_shorter_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(finished(0, budget=30.0))
    for name, factor in (("L-BFGS", 500.0), ("SOAP", 50.0)):
        store.add(replace(finished(0, factor, budget=2.0), contender=name))
    (found,) = report.factors([POISSON], store, store.contenders(), [0])
    assert found == pytest.approx(50)
    text = report.won([POISSON], store, [0])
    assert "best peer: 1 of 1; by a factor of 10: 1; of 100: 0; above by more than 2: 0." in text


def test_times_are_relative_to_the_published_one_or_to_a_milestones(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    from examples.records import overview

    assert overview.anchor(POISSON) == (6.1e-8, 468)
    assert overview.anchor(PROBLEMS["heat-1d"]) == (1e-6, 96)
    assert overview.anchor(PROBLEMS["wave"]) is None
    store = Store(tmp_path)
    for seed, factor in enumerate((1.0, 2.0, 4.0)):
        store.add(finished(seed, factor))
    assert overview.longest(store, POISSON).seed == 1
    figure, axes = pyplot.subplots()
    overview.draw(axes, list(PROBLEMS.values()), store)
    times, errors = axes.lines[0].get_data()
    assert times[0] == pytest.approx(1 / 468)
    assert errors[0] == pytest.approx(2e-2 / 6.1e-8)
    pyplot.close(figure)
    path = overview.save(tmp_path, list(PROBLEMS.values()), store)
    assert path.stat().st_size < 200_000


def test_a_problem_that_differs_does_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(finished(0))
    assert "reached: 0 of 0" in report.tally([replace(POISSON, differs="rows")], store, [0])


@pytest.mark.parametrize("contender", ["RegNewton", "L-BFGS", "Adam + L-BFGS"])
def test_a_run_records_error_against_time(contender: str) -> None:
    run = runner.run(PROBLEMS["heat-1d"], contender, seed=0, budget=0.3)
    assert run.status == "budget"
    assert run.steps > 0
    seconds, steps, _, errors = zip(*run.curve, strict=True)
    assert list(seconds) == sorted(seconds)
    assert seconds[-1] >= 0.3
    assert steps[-1] == run.steps
    assert list(errors) == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]
    assert torch.get_default_dtype() == torch.float32


def test_a_contender_that_raises_is_recorded_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(params: list[torch.Tensor], seconds: float):
        def take(closure):
            raise ValueError("out of order")

        return take

    monkeypatch.setitem(CONTENDERS, "broken", broken)
    run = runner.run(PROBLEMS["heat-1d"], "broken", seed=0, budget=1.0)
    assert run.status == "ValueError: out of order"
    assert run.steps == 0


def test_points_are_drawn_anew_where_the_source_does() -> None:
    seen = []
    runner.run(
        PROBLEMS["poisson-5d"],
        "RegNewton",
        seed=0,
        budget=1e-3,
        watch=lambda step, training: seen.append(training.points[0]),
    )
    torch.manual_seed(0)
    with runner.default_dtype(torch.float64):
        first = PROBLEMS["poisson-5d"].build(0).points[0]
    assert not torch.equal(first, seen[0])


def test_the_command_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(
        "sys.argv",
        f"x --problems heat-1d --seeds 0 --seconds 0.3 --threads 1 --output {tmp_path}".split(),
    )
    program.main()
    assert "1 runs" in capsys.readouterr().out
    program.main()
    printed = capsys.readouterr().out
    assert "0 runs" in printed
    assert "| heat-1d | 1,020 | 257 | float64 | 2.8e-08 ENGD |" in printed
    assert (tmp_path / "all.png").stat().st_size < 200_000
    assert (tmp_path / "heat-1d.png").stat().st_size < 200_000
    assert (tmp_path / "relative.png").stat().st_size < 200_000


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.parsed(["--problems", "nothing"])
    assert "choose from poisson-2d" in capsys.readouterr().err
