"""The suite's one command: ``python -m examples.benchmarks --size short|standard|long|full``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from . import agreement, report
from .contenders import CONTENDERS
from .problems import PROBLEMS
from .runner import Plan, execute, preload
from .sizes import SIZES
from .store import Store


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.benchmarks", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--only", nargs="+", metavar="PROBLEM", help="these, or these families")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--seeds", type=int, help="instead of the size's own number")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="per run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rerun", nargs="+", default=[], metavar="NAME", help="forget their runs")
    parser.add_argument("--report", action="store_true", help="run nothing, only report")
    parser.add_argument("--compare", type=Path, metavar="DIR", help="--out of an earlier run")
    parser.add_argument("--list", action="store_true", help="names of problems and contenders")
    return parser.parse_args()


def selected(names: list[str] | None, size: str) -> list:
    """The size's problems, or those named (by name or family) whatever their size."""
    if names is None:
        return SIZES[size].problems()
    families = {problem.family for problem in PROBLEMS.values()}
    unknown = set(names) - set(PROBLEMS) - families
    if unknown:
        raise SystemExit(f"unknown problems or families: {', '.join(sorted(unknown))}")
    in_size = {problem.name for problem in SIZES[size].problems()}
    return [
        p for p in PROBLEMS.values() if p.name in names or (p.family in names and p.name in in_size)
    ]


def main() -> None:
    options = arguments()
    if options.list:
        for problem in PROBLEMS.values():
            print(f"{problem.name} ({problem.family}): {', '.join(sorted(problem.sizes))}")
        for contender in CONTENDERS.values():
            print(f"{contender.name}: {contender.settings}; {contender.requirement}")
        return
    size = SIZES[options.size]
    wanted = options.contenders or size.contenders
    unknown = set(wanted) - set(CONTENDERS)
    if unknown:
        raise SystemExit(f"unknown contenders: {unknown}; known: {', '.join(CONTENDERS)}")
    absent = {n: reason for n in wanted if (reason := CONTENDERS[n].missing())}
    plan = Plan(
        size,
        selected(options.only, options.size),
        [name for name in CONTENDERS if name in wanted and name not in absent],
        options.seeds or size.seeds,
        options.budget,
        options.threads,
    )
    folder = options.out / size.name
    store = Store(folder)
    for name, reason in absent.items():
        print(f"{name} is {reason}")
    if options.rerun:
        print(f"forgot {store.forget(set(options.rerun))} runs of {', '.join(options.rerun)}")
    if not options.report:
        preload(plan)
        print(f"{plan.runs()} runs, at most {plan.seconds() / 60:.0f} minutes, into {folder}")
        tqdm.monitor_interval = 0  # a monitor thread and fork do not go together
        with tqdm(total=plan.runs(), unit="run") as progress:
            execute(plan, store, progress=progress)
    print("\n".join(report.write(plan, store, folder, absent)))
    if options.compare:
        earlier = report.times(plan, Store(options.compare / size.name))
        print("\n".join(agreement.compare(earlier, report.times(plan, store)).lines()))
    print(f"tables: {folder / 'report.md'}; pictures: {folder / 'profile.png'}, curves.png")


if __name__ == "__main__":
    main()
