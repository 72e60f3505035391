"""The methods, with the settings that their packages document as defaults.

Each gives its first state and a function that goes from parameters and state to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import nlls_gram
import randngd
import ssbroyden_optimistix

from .bridge import InJax, Params

State = Any
Advance = Callable[[Params, State], tuple[Params, State]]


def _through_optimistix(problem: InJax, solver: Any) -> tuple[State, Advance]:
    """The steps of a minimizer with Optimistix' interface."""

    def loss(params: Params, args: None) -> tuple[jax.Array, None]:
        return problem.loss(params), None

    shape = jax.ShapeDtypeStruct((), problem.params[0].dtype)

    def advance(params: Params, state: State) -> tuple[Params, State]:
        return solver.step(loss, params, None, {}, state, frozenset())[:2]

    return solver.init(loss, problem.params, None, {}, shape, None, frozenset()), advance


def natural_gradient(problem: InJax) -> tuple[State, Advance]:
    """Energy natural gradient with the whole matrix (Bioli et al. 2025, algorithm 2).

    Cholesky factor of J^T J + mu I, mu = max(10 eps lambda_max, (loss / 100)^2); Armijo's search.
    """
    metric = randngd.metrics.gauss_newton(problem.terms, problem.params, representation="full")
    return _through_optimistix(problem, randngd.ngd_solver(randngd.NGDFull(metric, key=0)))


def ssbroyden(problem: InJax) -> tuple[State, Advance]:
    """Self-scaled Broyden with a strong Wolfe search; no tolerance at which it would stop."""
    return _through_optimistix(problem, ssbroyden_optimistix.SSBroyden(rtol=0.0, atol=0.0))


def levenberg_marquardt(problem: InJax) -> tuple[State, Advance]:
    """Levenberg-Marquardt with geodesic acceleration; the smaller of JJ^T and J^T J is factored.

    It forms J for all rows at once, in memory that Burgers' equation with 9,216 rows has not.
    """
    solver = nlls_gram.LevenbergMarquardt(problem.residuals)
    return solver.init(problem.params), lambda params, state: solver.update(params, state)[:2]


METHODS: dict[str, Callable[[InJax], tuple[State, Advance]]] = {
    "natural gradient (JAX)": natural_gradient,
    "SSBroyden (JAX)": ssbroyden,
    "Levenberg-Marquardt (nlls-gram)": levenberg_marquardt,
}
