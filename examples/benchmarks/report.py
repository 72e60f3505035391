"""From records to what people read: tables, pictures, the scoreboard."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import at_times, curves, profile, scoreboard
from .contenders import CONTENDERS
from .problem import Problem
from .runner import Plan, best_value, results, time_to
from .store import Record, Store

Table = dict[tuple[str, str], list[Record]]
MAIN = ("regression", "pinn")
COSTS = ("steps", "closure calls", "products", "CG", "MiB", "ended by")
TITLES = {
    "regression": "Regression",
    "pinn": "Physics-informed networks (relative L2 error)",
    "classification": "Classification",
    "classic": "Classic functions",
}


def seconds(value: float) -> str:
    return "-" if math.isinf(value) else f"{value:.3g}"


def spread(values: list[float], write=seconds) -> str:
    """Median, and the range where there is one."""
    middle = write(statistics.median(values))
    low, high = write(min(values)), write(max(values))
    return middle if low == high else f"{middle} ({low} .. {high})"


def mean_or_blank(values: list[float | None], form: str = "{:.0f}") -> str:
    known = [value for value in values if value is not None]
    return form.format(statistics.median(known)) if known else ""


def columns(names: list[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]


def not_run(records: list[Record]) -> str | None:
    """Why there is nothing to show, or None where some seed ran."""
    bad = ("not applicable", "failed", "killed")
    reasons = [f"{r['status']}: {r['reason']}" for r in records if r["status"] in bad]
    reached = any(r.get("reached") for r in records)
    return reasons[0] if len(reasons) == len(records) and not reached else None


def problem_table(problem: Problem, table: Table, names: list[str]) -> list[str]:
    """One problem: every contender's time to target, best value, costs."""
    budget = max(
        (r["budget"] for name in names for r in table.get((problem.name, name), [])), default=0
    )
    lines = [
        f"### {problem.name}: {problem.measure} <= {problem.target:g}, {budget:g} s per run",
        "",
        *columns(["contender", "setting", "seconds to target", f"best {problem.measure}", *COSTS]),
    ]
    for name in names:
        records = table.get((problem.name, name), [])
        if not records:
            continue
        reason = not_run(records)
        if reason:
            lines.append(f"| {name} | {reason} |" + " |" * 8)
            continue
        ran = [r for r in records if "steps" in r]
        setting = ", ".join(f"{k}={v:g}" for k, v in records[0]["setting"].items())
        cells = [
            name,
            setting,
            spread([time_to(r, problem.target) for r in records]),
            spread([best_value(r, problem) for r in records], lambda v: f"{v:.1e}"),
            mean_or_blank([r["steps"] for r in ran]),
            mean_or_blank([r["closure_calls"] for r in ran]),
            mean_or_blank([r["products"] for r in ran]),
            mean_or_blank([r["cg_median"] for r in ran]),
            mean_or_blank([r["peak_memory_mib"] for r in ran]),
            ", ".join(sorted({r["status"] for r in records})),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def summary_table(problems: list[Problem], table: Table, names: list[str]) -> list[str]:
    """Median seconds to the headline target (best value at equal time), one row per problem."""
    if not problems:
        return []
    lines = columns(["problem", "target", *names])
    for problem in problems:
        medians = {
            name: statistics.median(time_to(r, problem.target) for r in records)
            for name in names
            if (records := table.get((problem.name, name)))
        }
        best = min(medians.values(), default=math.inf)
        cells = []
        for name in names:
            records = table.get((problem.name, name), [])
            if not records or not_run(records):
                cells.append("n/a" if records else "")
                continue
            value = statistics.median(best_value(r, problem) for r in records)
            text = f"{seconds(medians[name])} ({value:.0e})"
            winner = math.isfinite(best) and medians[name] == best
            cells.append(f"**{text}**" if winner else text)
        target = f"{problem.measure} {problem.target:g}"
        lines.append(f"| {problem.name} | {target} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def nist_solved_by(
    problems: list[Problem], table: Table, names: list[str]
) -> dict[str, dict[int, set[str]]]:
    solved: dict[str, dict[int, set[str]]] = {}
    for problem in problems:
        _, name, start = problem.name.split("-")
        for contender in names:
            records = table.get((problem.name, contender))
            if records:
                starts = solved.setdefault(contender, {1: set(), 2: set()})
                if math.isfinite(time_to(records[0], problem.target)):
                    starts[int(start)].add(name)
    return solved


def nist_table(problems: list[Problem], table: Table, names: list[str]) -> list[str]:
    """Correct digits, -log10 of the worst parameter's relative error, start 1 / start 2."""
    digits: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for problem in problems:
        data = problem.name.split("-")[1]
        for contender in names:
            records = table.get((problem.name, contender))
            if not records:
                continue
            error = best_value(records[0], problem)
            if not_run(records) or math.isinf(error):
                digits[data][contender].append("-")
            else:
                digits[data][contender].append(f"{max(0.0, -math.log10(max(error, 1e-16))):.1f}")
    lines = ["### NIST StRD: correct digits from start 1 / start 2 (6 is solved, and ends the run)"]
    lines += ["", *columns(["data set", *names])]
    for data, row in digits.items():
        lines.append(f"| {data} | " + " | ".join(" / ".join(row[n]) for n in names) + " |")
    return [*lines, ""]


def scores(plan: Plan, table: Table, names: list[str]) -> list[scoreboard.Line]:
    main = [problem for problem in plan.problems if problem.family in MAIN]
    peers = [name for name in names if CONTENDERS[name].kind != "ours"]
    newton = [name for name in peers if CONTENDERS[name].kind == "newton"]
    medians = {
        problem.name: {
            name: statistics.median(time_to(r, problem.target) for r in records)
            for name in (scoreboard.OURS, *peers)
            if (records := table.get((problem.name, name)))
        }
        for problem in main
    }
    medians = {p: row for p, row in medians.items() if scoreboard.OURS in row and len(row) > 1}
    budgets = {problem.name: plan.budget_of(problem) for problem in plan.problems}
    lines = []
    if scoreboard.solved(medians):
        lines = [
            scoreboard.first_or_close(medians),
            scoreboard.worst_ratio(medians, budgets),
            scoreboard.speed_up("L-BFGS", medians, budgets, [scoreboard.LBFGS]),
            scoreboard.speed_up(
                "the best Newton-type or Levenberg-Marquardt peer", medians, budgets, newton
            ),
        ]
    iterations = [
        record["cg_median"]
        for problem in plan.problems
        for record in table.get((problem.name, scoreboard.OURS), [])
        if record.get("cg_median") is not None
    ]
    if iterations:
        lines.append(scoreboard.median_cg(iterations))
    nist = [problem for problem in plan.problems if problem.family == "nist"]
    if nist:
        solved = nist_solved_by(nist, table, names)
        lines += [scoreboard.nist_solved(solved, start) for start in (1, 2)]
    return lines


def times(plan: Plan, store: Store) -> dict[str, dict[str, list[float]]]:
    """Seconds to the headline target, one a seed, for all that ran and all but NIST."""
    found: dict[str, dict[str, list[float]]] = {}
    by_name = {problem.name: problem for problem in plan.problems if problem.family != "nist"}
    for (name, contender), records in results(plan, store).items():
        if name in by_name and records and not not_run(records):
            target = by_name[name].target
            found.setdefault(name, {})[contender] = [time_to(r, target) for r in records]
    return found


def profile_panels(plan: Plan, table: Table, names: list[str]) -> dict[str, profile.Times]:
    """Instances are (problem, seed); whoever did not run one has not solved it."""
    panels: dict[str, profile.Times] = {}
    groups = {
        "regression and PINN": [p for p in plan.problems if p.family in MAIN],
        "all but NIST": [p for p in plan.problems if p.family != "nist"],
        "NIST": [p for p in plan.problems if p.family == "nist"],
    }
    if groups["all but NIST"] == groups["regression and PINN"]:
        del groups["all but NIST"]
    for title, problems in groups.items():
        present = [n for n in names if any((p.name, n) in table for p in problems)]
        times: dict[str, list[float]] = {name: [] for name in present}
        for problem in problems:
            for seed in range(plan.seeds_of(problem)):
                for name in present:
                    records = table.get((problem.name, name), [])
                    record = next((r for r in records if r["seed"] == seed), {})
                    times[name].append(time_to(record, problem.target))
        if times and any(times.values()):
            panels[title] = times
    return panels


def versions(names: list[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for requirement in sorted({CONTENDERS[name].requirement for name in names}):
        package = requirement.split("==")[0].split(" ")[0]
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def write(plan: Plan, store: Store, folder: Path, absent: dict[str, str]) -> list[str]:
    """All files of the report; returns the lines that the terminal shows."""
    table = results(plan, store)
    names = [n for n in plan.contenders if any(key[1] == n for key in table)]
    families = {problem.family for problem in plan.problems}
    text = [
        f"# Benchmark, size {plan.size.name}",
        "",
        f"{plan.threads} threads, float64, {plan.seeds} seeds: median (range). A dash: the target "
        f"was not reached; it counts as {scoreboard.PENALTY:g} times the budget in means and "
        "ratios, and as never in the profile. Runs end early when the hardest target is reached.",
        "",
        "![performance profile](profile.png)",
        "",
        "## Seconds to target (best value within the budget)",
        "",
    ]
    summary = summary_table([p for p in plan.problems if p.family != "nist"], table, names)
    text += summary
    ordinary = [p for p in plan.problems if p.family != "nist"]
    later = at_times.lines(ordinary, table, names)
    if later:
        text += ["## Best value after a time (an upper bound where a run had ended)", "", *later]
    for family, title in TITLES.items():
        if family in families:
            text += [f"## {title}", ""]
            for problem in plan.problems:
                if problem.family == family:
                    text += problem_table(problem, table, names)
    nist = [problem for problem in plan.problems if problem.family == "nist"]
    if nist:
        on_nist = [n for n in names if any((p.name, n) in table for p in nist)]
        text += nist_table(nist, table, on_nist)
    lines = scores(plan, table, names)
    board = [f"- {line.name}: {line.text}" for line in lines]
    text += ["## Scoreboard (RegNewton's defaults)", "", *board, "", "## Contenders", ""]
    text += columns(["contender", "package", "settings", "source"])
    for name in names:
        c = CONTENDERS[name]
        text.append(f"| {name} | {c.requirement} | {c.settings} | {c.source} |")
    text += [f"| {name} | {reason} | | |" for name, reason in absent.items()]
    text += ["", "![loss or error against time](curves.png)", ""]
    (folder / "report.md").write_text("\n".join(text))

    panels = profile_panels(plan, table, names)
    if panels:
        profile.draw(panels, folder / "profile.png", names)
    if ordinary:
        curves.draw(ordinary, table, names, folder / "curves.png")
    (folder / "results.json").write_text(
        json.dumps(
            {
                "size": plan.size.name,
                "threads": plan.threads,
                "versions": versions(names),
                "not_installed": absent,
                "scoreboard": {line.name: line.value for line in lines},
                "runs": [record for records in table.values() for record in records],
            }
        )
    )
    return [*summary, *board]
