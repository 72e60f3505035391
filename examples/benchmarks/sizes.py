"""The four sizes of the suite: which problems and contenders, how long, how often."""

from __future__ import annotations

from dataclasses import dataclass

from .contenders import CONTENDERS
from .problem import Problem
from .problems import PROBLEMS


@dataclass(frozen=True)
class Size:
    """``budget``: seconds per run; ``nist_budget``: the same for the tiny NIST problems.

    ``like``: the size whose problems it takes, where these are not its own.
    """

    name: str
    seeds: int
    budget: float
    nist_budget: float
    contenders: tuple[str, ...]
    nist_contenders: tuple[str, ...]
    tune: bool
    like: str = ""

    def problems(self) -> list[Problem]:
        name = self.like or self.name
        return [problem for problem in PROBLEMS.values() if name in problem.sizes]

    def budget_of(self, problem: Problem) -> float:
        return self.nist_budget if problem.family == "nist" else self.budget

    def contenders_of(self, problem: Problem) -> tuple[str, ...]:
        return self.nist_contenders if problem.family == "nist" else self.contenders


OURS = ("RegNewton", "RegNewton (GN)")
FEW = (*OURS, "Adam", "L-BFGS", "torch-levenberg-marquardt", "torchmin newton-cg")
STANDARD = (*FEW, "DeepXDE NNCG", "SOAP")
NIST = (*OURS, "L-BFGS", "torch-levenberg-marquardt", "torchmin newton-cg")
ALL = tuple(CONTENDERS)

SIZES = {
    size.name: size
    for size in (
        Size("short", 1, 1.0, 0.5, ALL, NIST, tune=False),
        Size("standard", 3, 4.0, 3.0, STANDARD, NIST, tune=True),
        # Settings are not tuned again: the best rate of a short run is seldom that of a long one,
        # and the grids would take a day.
        Size("long", 1, 120.0, 3.0, STANDARD, NIST, tune=False, like="standard"),
        Size("full", 5, 15.0, 3.0, ALL, ALL, tune=True),
    )
}
