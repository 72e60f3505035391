"""The table of problems: a new one is a file with `PROBLEMS` and a line here."""

from __future__ import annotations

from ..problem import Problem
from . import (
    allen_cahn,
    burgers,
    burgers_shock,
    cavity,
    convection,
    heat_1d,
    heat_4d,
    helmholtz,
    korteweg_de_vries,
    kuramoto_sivashinsky,
    poisson_2d,
    poisson_5d,
    poisson_100d,
    reaction,
    wave,
)

FILES = (
    poisson_2d,
    poisson_5d,
    poisson_100d,
    heat_1d,
    heat_4d,
    burgers,
    burgers_shock,
    helmholtz,
    allen_cahn,
    wave,
    convection,
    reaction,
    korteweg_de_vries,
    kuramoto_sivashinsky,
    cavity,
)

PROBLEMS: dict[str, Problem] = {
    problem.name: problem for file in FILES for problem in file.PROBLEMS
}
