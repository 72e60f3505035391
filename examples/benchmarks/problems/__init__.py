"""All problems, by name."""

from __future__ import annotations

from ..problem import Problem
from . import classic, classification, images, nist, pinn, regression

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for family in (regression, images, pinn, classification, classic, nist)
    for problem in family.PROBLEMS
}
