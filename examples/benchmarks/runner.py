"""Which runs, in which order; finished ones are skipped."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .contenders import CONTENDERS
from .contenders.contender import Contender
from .problem import Problem
from .sizes import Size
from .store import Record, Store
from .worker import in_process

OVERHEAD = 0.6  # seconds that a run costs beside its budget: process, warm-up, recording
Run = Callable[[Problem, Contender, dict[str, float], int, float, int], Record]


@dataclass(frozen=True)
class Plan:
    """A size, possibly narrowed by the user."""

    size: Size
    problems: list[Problem]
    contenders: list[str]
    seeds: int
    budget: float | None
    threads: int

    def budget_of(self, problem: Problem) -> float:
        return self.size.budget_of(problem) if self.budget is None else self.budget

    def seeds_of(self, problem: Problem) -> int:
        return self.seeds if problem.seeded else 1

    def contenders_of(self, problem: Problem) -> list[Contender]:
        allowed = self.size.contenders_of(problem)
        return [CONTENDERS[name] for name in self.contenders if name in allowed]

    def grid(self, contender: Contender) -> list[dict[str, float]]:
        return [dict(s) for s in (contender.grid if self.size.tune else contender.grid[:1])]

    def runs(self) -> int:
        return sum(
            len(self.grid(contender)) + self.seeds_of(problem) - 1
            for problem in self.problems
            for contender in self.contenders_of(problem)
        )

    def seconds(self) -> float:
        """An upper bound: runs end early when all targets are reached."""
        return sum(
            (len(self.grid(contender)) + self.seeds_of(problem) - 1)
            * (self.budget_of(problem) + OVERHEAD)
            for problem in self.problems
            for contender in self.contenders_of(problem)
        )


def time_to(record: Record, target: float) -> float:
    """Seconds to the target, infinite where it was not reached."""
    at = record.get("reached", {}).get(repr(target))
    return math.inf if at is None else at[0]


def best_value(record: Record, problem: Problem) -> float:
    """The lowest loss or error, whichever the problem is measured by."""
    value = record.get("best_loss" if problem.measure == "loss" else "best_error")
    return math.inf if value is None else value


def rank(record: Record, problem: Problem) -> tuple[float, float]:
    """Tuning picks the lowest: time to the headline target, then the best value."""
    return time_to(record, problem.target), best_value(record, problem)


def request(
    plan: Plan, problem: Problem, contender: Contender, setting: dict[str, float], seed: int
) -> Record:
    return {
        "problem": problem.name,
        "contender": contender.name,
        "setting": setting,
        "seed": seed,
        "budget": plan.budget_of(problem),
        "threads": plan.threads,
    }


def chosen(plan: Plan, store: Store, problem: Problem, contender: Contender) -> Record | None:
    """The seed-0 record of the best setting, or None before it has run."""
    requests = [request(plan, problem, contender, setting, 0) for setting in plan.grid(contender)]
    records = [record for r in requests if (record := store.find(r)) is not None]
    return min(records, key=lambda record: rank(record, problem)) if records else None


def order(plan: Plan) -> Iterator[tuple[Problem, Contender, int]]:
    """Seed by seed, contenders rotated by seed and problem: a noisy minute hurts all alike."""
    for seed in range(plan.seeds):
        for index, problem in enumerate(plan.problems):
            if seed >= plan.seeds_of(problem):
                continue
            contenders = plan.contenders_of(problem)
            shift = (seed + index) % len(contenders) if contenders else 0
            for contender in contenders[shift:] + contenders[:shift]:
                yield problem, contender, seed


def preload(plan: Plan) -> None:
    """Import every peer once; forked runs inherit the imports."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
        for name in plan.contenders:
            importlib.import_module(CONTENDERS[name].module)
        # What torch itself would import in the middle of a first step.
        for module in ("torch._dynamo", "torch._inductor.config"):
            importlib.import_module(module)


def execute(plan: Plan, store: Store, run: Run = in_process, progress=None) -> None:
    """Run what is missing. The first seed tries a contender's whole grid, later ones the best."""
    for problem, contender, seed in order(plan):
        if seed == 0:
            settings = plan.grid(contender)
        else:
            best = chosen(plan, store, problem, contender)
            settings = [best["setting"] if best else plan.grid(contender)[0]]
        for setting in settings:
            if progress is not None:
                progress.set_postfix_str(f"{problem.name} {contender.name}", refresh=False)
            wanted = request(plan, problem, contender, setting, seed)
            if store.find(wanted) is None:
                budget = plan.budget_of(problem)
                store.add(wanted | run(problem, contender, setting, seed, budget, plan.threads))
            if progress is not None:
                progress.update()


def results(plan: Plan, store: Store) -> dict[tuple[str, str], list[Record]]:
    """(problem, contender) -> the records of the chosen setting, one per seed."""
    table: dict[tuple[str, str], list[Record]] = {}
    for problem in plan.problems:
        for contender in plan.contenders_of(problem):
            best = chosen(plan, store, problem, contender)
            if best is None:
                continue
            found = (
                store.find(request(plan, problem, contender, best["setting"], seed))
                for seed in range(plan.seeds_of(problem))
            )
            records = [record for record in found if record is not None]
            table[problem.name, contender.name] = records
    return table
