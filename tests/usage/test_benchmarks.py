"""The benchmark suite measures what it says: problems, clock, profile and scoreboard."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.benchmarks import agreement, at_times, scoreboard
from examples.benchmarks.contenders.contender import Contender
from examples.benchmarks.problem import Instance, NotApplicable, Problem
from examples.benchmarks.problems import PROBLEMS, nist, pinn
from examples.benchmarks.problems.derivatives import Forward, Nested
from examples.benchmarks.problems.nist_data import DATASETS
from examples.benchmarks.profile import ratios, share_within
from examples.benchmarks.runner import Plan, execute, order, results, time_to
from examples.benchmarks.sizes import SIZES, Size
from examples.benchmarks.store import Store
from examples.benchmarks.task import Finished, Task

SMALL = [p for p in PROBLEMS.values() if p.family != "nist" and "4096" not in p.name]


@pytest.fixture(autouse=True)
def _default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def build(problem: Problem, seed: int = 0) -> Instance:
    try:
        return problem.build(seed)
    except NotApplicable as reason:
        pytest.skip(str(reason))


# -- problems --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_certified_parameters_give_the_certified_sum_of_squares(name):
    instance = nist.regression(name, 1)
    with torch.no_grad():
        instance.params[0].copy_(torch.tensor(DATASETS[name].certified))
    # Lanczos1 has no noise: its sum of 1.4e-25 is out of reach of 11-digit parameters.
    assert instance.loss().item() == pytest.approx(DATASETS[name].rss, rel=1e-8, abs=1e-20)
    assert instance.error() == 0


def test_nist_has_all_data_sets_from_both_starts():
    assert len(DATASETS) == 27
    assert sum(problem.family == "nist" for problem in PROBLEMS.values()) == 54


@pytest.mark.parametrize("problem", SMALL, ids=lambda problem: problem.name)
def test_rows_and_loss_are_the_same_function(problem):
    instance = build(problem)
    loss = instance.loss()
    mean = instance.rows.residuals().square().mean()
    torch.testing.assert_close(mean, loss, rtol=1e-10, atol=0)
    for a, b in zip(
        torch.autograd.grad(loss, instance.params, allow_unused=True),
        torch.autograd.grad(mean, instance.params, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("problem", SMALL, ids=lambda problem: problem.name)
def test_a_seed_fixes_the_start_and_the_data(problem):
    first, second = build(problem, seed=1), build(problem, seed=1)
    assert all(map(torch.equal, first.params, second.params))
    assert first.loss().item() == second.loss().item()


@pytest.mark.parametrize(
    "make",
    [
        pinn.poisson_2d,
        pinn.poisson_5d,
        pinn.heat,
        pinn.burgers,
        pinn.reaction,
        pinn.wave,
        lambda: pinn.convection(30.0),
        lambda: pinn.convection(40.0),
    ],
    ids=["poisson-2d", "poisson-5d", "heat", "burgers", "reaction", "wave", "beta=30", "beta=40"],
)
@pytest.mark.parametrize("engine", [Nested, Forward])
def test_exact_solutions_satisfy_their_equations(make, engine):
    torch.manual_seed(0)
    problem = make()
    points = problem.interior[:200]
    # Burgers' shock has slopes of 150, and its reference is a quadrature.
    residual = problem.equation(engine(problem.exact, points))
    slope = engine(problem.exact, points).d(points.shape[1] - 1)
    assert residual.abs().max() < 1e-9 * (1 + slope.abs().max())
    for condition in problem.conditions:
        if condition.kind != "periodic":
            assert condition.residual(problem.exact).abs().max() < 1e-9


# -- clock and record ------------------------------------------------------------------------


def forever(call):
    while True:
        call()


def falling(values: list[float]) -> tuple[Problem, Instance]:
    """A problem whose loss is the next of these values at every call."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    sequence = iter([values[0], *values])  # the suite looks once before the clock starts
    instance = Instance([parameter], lambda: parameter.sum() * 0 + next(sequence))
    problem = Problem("fake", "regression", lambda seed: instance, (1e-1, 1e-3), 1e-3)
    return problem, instance


def test_a_crossing_is_recorded_with_its_closure_call():
    problem, instance = falling([1.0, 0.5, 0.05, 0.2, 1e-4])
    task = Task(problem, instance, budget=10.0)
    task.start()
    with pytest.raises(Finished, match="all targets"):
        forever(task.loss)
    assert {target: calls for target, (_, calls, _) in task.reached.items()} == {1e-1: 3, 1e-3: 5}
    assert task.reached[1e-1][0] <= task.reached[1e-3][0] <= task.elapsed()
    assert task.best_loss == 1e-4
    assert task.curve[-1][1:3] == (5, 1e-4)


def test_the_clock_stands_still_while_recording(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    problem, instance = falling([1.0, 0.5])
    task = Task(problem, instance, budget=10.0)
    task.start()
    now[0] = 1.0
    with task.paused():
        now[0] = 5.0
        with task.paused():
            now[0] = 7.0
    assert task.elapsed() == 1.0
    now[0] = 16.5
    with pytest.raises(Finished, match="budget"):
        task.loss()


def test_parameters_that_never_move_end_a_run():
    problem, instance = falling([1.0] * 2)
    task = Task(problem, instance, budget=10.0)
    task.start()
    with pytest.raises(Finished, match="stalled"):
        forever(task.tick)
    assert task.steps == 100


# -- runner ----------------------------------------------------------------------------------


def fake_run(times: dict[float, float], log: list):
    """A run whose time to target depends on the setting alone."""

    def run(problem, contender, setting, seed, budget, threads):
        log.append((problem.name, contender.name, setting.get("lr"), seed))
        seconds = times[setting.get("lr", 0.0)]
        reached = {} if math.isinf(seconds) else {repr(problem.target): [seconds, 1, 1]}
        return {
            "problem": problem.name,
            "contender": contender.name,
            "setting": setting,
            "seed": seed,
            "budget": budget,
            "threads": threads,
            "status": "budget",
            "reason": "",
            "reached": reached,
            "best_loss": seconds,
            "best_error": None,
        }

    return run


@pytest.fixture
def plan(monkeypatch):
    names = ("RegNewton", "tuned")
    size = Size("tiny", 2, 1.0, 1.0, names, names, tune=True)
    catalogue = {
        name: Contender(name, "newton", lambda task, setting: None, "torch", "torch", "", "", grid)
        for name, grid in (
            ("RegNewton", ({},)),
            ("tuned", ({"lr": 1.0}, {"lr": 2.0}, {"lr": 3.0})),
        )
    }
    monkeypatch.setattr("examples.benchmarks.runner.CONTENDERS", catalogue)
    problems = [PROBLEMS["circle"], PROBLEMS["small-regression"]]
    return Plan(size, problems, list(names), 2, None, 1)


TIMES = {0.0: 0.5, 1.0: math.inf, 2.0: 0.2, 3.0: 0.4}


def test_tuning_keeps_the_fastest_setting_for_later_seeds(plan, tmp_path):
    log = []
    store = Store(tmp_path)
    execute(plan, store, fake_run(TIMES, log))
    assert len(log) == plan.runs() == 2 * (1 + 3) + 2 * 2
    tuned = [entry for entry in log if entry[:2] == ("circle", "tuned")]
    assert [lr for *_, lr, seed in tuned if seed == 1] == [2.0]
    records = results(plan, store)["circle", "tuned"]
    assert [time_to(r, PROBLEMS["circle"].target) for r in records] == [0.2, 0.2]


def test_a_second_call_skips_finished_runs(plan, tmp_path):
    log = []
    execute(plan, Store(tmp_path), fake_run(TIMES, log))
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    # An interruption: the last run is cut off in the middle of its line.
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    again = []
    execute(plan, Store(tmp_path), fake_run(TIMES, again))
    assert again == log[-1:]
    assert len(Store(tmp_path).records) == len(log)
    assert Store(tmp_path).forget({"tuned"}) == 8
    assert {json.loads(line)["contender"] for line in (tmp_path / "runs.jsonl").open()} == {
        "RegNewton"
    }


def test_contenders_take_turns_in_going_first(plan):
    first = {}
    for problem, contender, seed in order(plan):
        first.setdefault((problem.name, seed), contender.name)
    assert sorted(first.values()) == ["RegNewton", "RegNewton", "tuned", "tuned"]


def test_a_run_in_a_process_of_its_own(tmp_path):
    from examples.benchmarks.contenders import CONTENDERS
    from examples.benchmarks.worker import in_process

    record = in_process(PROBLEMS["rosenbrock"], CONTENDERS["L-BFGS"], {}, 0, 2.0, 1)
    assert record["status"] == "all targets reached"
    assert record["best_loss"] <= 1e-12
    assert 0 < record["reached"]["1e-08"][0] < 2.0
    assert record["closure_calls"] > 0
    assert record["peak_memory_mib"] >= 0
    json.dumps(record)


def test_a_crash_is_a_record_and_a_reason_is_shown():
    from examples.benchmarks.worker import in_process

    def crash(task, setting):
        raise ValueError("no")

    def refuse(task, setting):
        raise NotApplicable("too small")

    for run, status, reason in (
        (crash, "failed", "ValueError: no"),
        (refuse, "not applicable", "too small"),
    ):
        contender = Contender("bad", "newton", run, "torch", "torch", "", "")
        record = in_process(PROBLEMS["rosenbrock"], contender, {}, 0, 0.5, 1)
        assert (record["status"], record["reason"]) == (status, reason)


def test_a_contender_that_never_asks_for_the_loss_ends_at_its_budget():
    from examples.benchmarks.worker import in_process

    def hang(task, setting):
        while True:
            pass

    contender = Contender("hang", "newton", hang, "torch", "torch", "", "")
    record = in_process(PROBLEMS["rosenbrock"], contender, {}, 0, 0.3, 1)
    assert record["status"] == "budget"
    assert 0.3 <= record["seconds"] < 1.0


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_sizes_name_what_exists(size):
    from examples.benchmarks.contenders import CONTENDERS

    assert set(size.contenders) | set(size.nist_contenders) <= set(CONTENDERS)
    assert {p.family for p in size.problems()} >= {"regression", "pinn", "nist"}


# -- profile and scoreboard ------------------------------------------------------------------


def test_performance_profile_of_a_hand_made_example():
    times = {"a": [1.0, 4.0, math.inf, math.inf], "b": [2.0, 1.0, 3.0, math.inf]}
    table = ratios(times)
    assert table == {
        "a": [1.0, 4.0, math.inf, math.inf],
        "b": [2.0, 1.0, 1.0, math.inf],
    }
    assert [share_within(table["a"], tau) for tau in (1, 2, 4)] == [0.25, 0.25, 0.5]
    assert [share_within(table["b"], tau) for tau in (1, 2, 4)] == [0.5, 0.75, 0.75]


MEDIANS = {
    "won": {"RegNewton": 1.0, "L-BFGS": 8.0, "lm": 2.0},
    "close": {"RegNewton": 1.05, "L-BFGS": math.inf, "lm": 1.0},
    "lost": {"RegNewton": 3.0, "L-BFGS": 1.0, "lm": 6.0},
    "missed": {"RegNewton": math.inf, "L-BFGS": 2.0, "lm": math.inf},
    "nobody": {"RegNewton": math.inf, "L-BFGS": math.inf, "lm": math.inf},
}
BUDGETS = dict.fromkeys(MEDIANS, 4.0)


def test_scoreboard_of_a_hand_made_example():
    first = scoreboard.first_or_close(MEDIANS)
    assert first.value == 0.5
    assert "nobody" in first.text
    worst = scoreboard.worst_ratio(MEDIANS, BUDGETS)
    assert worst.value == 4.0  # 2 x budget of 4 against 2
    assert worst.text == "at least 4 (missed)"
    against = scoreboard.speed_up("L-BFGS", MEDIANS, BUDGETS, ["L-BFGS"])
    assert against.value == pytest.approx((8.0 * (8 / 1.05) * (1 / 3) * (2 / 8)) ** 0.25)
    newton = scoreboard.speed_up("lm", MEDIANS, BUDGETS, ["lm"])
    assert newton.value == pytest.approx((2.0 * (1 / 1.05) * 2.0) ** (1 / 3))


def test_nist_line_counts_data_sets_per_start():
    solved = {"RegNewton": {1: {"a"}, 2: {"a", "b"}}, "L-BFGS": {1: set(), 2: {"b"}}}
    assert scoreboard.nist_solved(solved, 1).value == 1
    line = scoreboard.nist_solved(solved, 2)
    assert line.value == 2
    assert "L-BFGS 1" in line.text


def test_a_report_is_written_from_records(plan, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from examples.benchmarks import report, runner

    monkeypatch.setattr(report, "CONTENDERS", runner.CONTENDERS)
    store = Store(tmp_path)
    run = fake_run(TIMES, [])
    full = {
        "steps": 3,
        "closure_calls": 3,
        "products": None,
        "cg_median": None,
        "peak_memory_mib": 1.0,
        "curve": [[0.1, 1, 1.0, None], [0.2, 2, 0.5, None]],
    }
    execute(plan, store, lambda *arguments: run(*arguments) | full)
    shown = "\n".join(report.write(plan, store, tmp_path, {"absent": "not installed"}))
    assert "0 of 2 problems" in shown  # 0.5 s against 0.2 s
    assert "**0.2 (2e-01)**" in shown
    text = (tmp_path / "report.md").read_text()
    assert "not installed" in text
    assert (tmp_path / "profile.png").stat().st_size < 200_000
    scores = json.loads((tmp_path / "results.json").read_text())["scoreboard"]
    assert scores["worst ratio to the best contender"] == pytest.approx(2.5)


def test_two_runs_agree_where_winners_and_medians_do() -> None:
    inf = math.inf
    one = {
        "same": {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]},
        "tie": {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.5, 6.0]},
        "turned": {"a": [1.0, 1.0, 1.0], "b": [9.0, 9.0, 9.0]},
        "unsolved": {"a": [inf, inf, inf], "b": [inf, inf, 1.0]},
    }
    other = {
        "same": {"a": [1.5, 2.5, 3.0], "b": [7.0, 8.0, 9.0]},
        "tie": {"a": [1.0, 2.6, 3.0], "b": [2.0, 2.5, 6.0]},
        "turned": {"a": [9.0, 9.0, 9.0], "b": [1.0, 1.0, 1.0]},
        "unsolved": {"a": [inf, inf, inf], "b": [inf, inf, inf]},
    }
    found = agreement.compare(one, other)
    assert (found.winners, found.solved) == (2, 3)
    assert found.other_winners == ["turned (a, b)"]
    assert (found.medians, found.pairs) == (3, 6)


# -- longer budgets --------------------------------------------------------------------------


def test_the_best_value_after_a_time_is_read_off_the_curve() -> None:
    problem = PROBLEMS["poisson-2d"]
    curve = [(1.0, 10, 1e-1, 0.5), (20.0, 90, 1e-3, 0.1), (100.0, 300, 1e-5, None)]
    record = {"curve": curve, "budget": 120.0}
    assert at_times.value_at(record, problem, 4.0) == 0.5
    assert at_times.value_at(record, problem, 120.0) == 0.1
    assert at_times.value_at(record, problem, 0.5) == math.inf
    table = {(problem.name, "Adam"): [record], (problem.name, "SOAP"): [{"budget": 120.0}]}
    head, _, row, _ = at_times.lines([problem], table, ["Adam", "SOAP"])
    assert head == "| problem | after seconds | Adam | SOAP |"
    assert row == "| poisson-2d | 4 / 30 / 120 | 5e-01 / 1e-01 / 1e-01 | - / - / - |"
    record["budget"] = 30.0
    assert "| 4 / 30 | 5e-01 / 1e-01 |" in at_times.lines([problem], table, ["Adam"])[2]


def test_the_long_size_has_the_standard_problems_for_two_minutes() -> None:
    long, standard = SIZES["long"], SIZES["standard"]
    assert [p.name for p in long.problems()] == [p.name for p in standard.problems()]
    assert long.budget == max(at_times.TIMES)
    assert standard.budget == min(at_times.TIMES)
