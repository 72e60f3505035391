"""Solve problems with published errors, and compare: python -m examples.records --help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from . import report
from .contenders import CONTENDERS
from .problem import Problem
from .problems import PROBLEMS
from .runner import run
from .store import Store


def names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.records", description=__doc__)
    parser.add_argument("--problems", type=names, default=list(PROBLEMS), help="a,b; all if none")
    parser.add_argument("--contenders", type=names, default=["RegNewton"], help="or all")
    parser.add_argument("--seeds", type=names, default=["0", "1", "2"], help="0,1,2 if none")
    parser.add_argument("--seconds", type=float, default=1000.0, help="of each run, 1000 if none")
    parser.add_argument("--threads", type=int, default=2, help="2 if none")
    parser.add_argument("--output", type=Path, default=Path("output/records"), help="for results")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--list", action="store_true", help="print problems and contenders")
    options = parser.parse_args(arguments)
    if options.contenders == ["all"]:
        options.contenders = list(CONTENDERS)
    for chosen, known in ((options.problems, PROBLEMS), (options.contenders, CONTENDERS)):
        if unknown := set(chosen) - set(known):
            parser.error(f"unknown {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    options.seeds = [int(seed) for seed in options.seeds]
    return options


def execute(options: argparse.Namespace, problems: Sequence[Problem], store: Store) -> None:
    """What is missing, seed by seed, so that an early end leaves a table of all problems."""
    wanted = [(p, c, s) for s in options.seeds for p in problems for c in options.contenders]
    missing = [w for w in wanted if store.find(w[0].name, w[1], w[2], options.seconds) is None]
    print(f"{len(missing)} runs, at most {len(missing) * options.seconds / 3600:.1f} hours")
    for problem, contender, seed in missing:
        done = run(problem, contender, seed, options.seconds)
        store.add(done)
        at, steps, loss, error = done.curve[-1]
        print(
            f"{problem.name}, {contender}, seed {seed}: {problem.measure} {error:.1e} "
            f"after {at:.0f} s, {steps} steps, loss {loss:.1e} ({done.status})",
            flush=True,
        )


def main() -> None:
    options = parsed()
    if options.list:
        print("\n".join(f"{p.name}: {p.equation}" for p in PROBLEMS.values()))
        print("contenders:", ", ".join(CONTENDERS))
        return
    torch.set_num_threads(options.threads)
    problems = [PROBLEMS[name] for name in options.problems]
    store = Store(options.output)
    if not options.report:
        execute(options, problems, store)
    print(report.table(problems, store, options.seeds))
    print("\n" + report.tally(problems, store, options.seeds))
    shown = store.contenders()
    if len(shown) > 1:
        print("\n" + report.peers(problems, store, shown, options.seeds))
        print("\n" + report.won(problems, store, options.seeds))
    from .overview import save as save_overview
    from .pictures import save

    print(f"pictures: {save(options.output, problems, store, shown, options.seeds)}")
    print(f"relative to the published: {save_overview(options.output, problems, store)}")


if __name__ == "__main__":
    main()
