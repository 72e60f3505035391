"""The methods, with the settings that their packages document as defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import randngd
import ssbroyden_optimistix

from .bridge import InJax


def natural_gradient(problem: InJax) -> Any:
    """Energy natural gradient with the whole matrix (Bioli et al. 2025, algorithm 2).

    Cholesky factor of J^T J + mu I, mu = max(10 eps lambda_max, (loss / 100)^2); Armijo's search.
    """
    metric = randngd.metrics.gauss_newton(problem.terms, problem.params, representation="full")
    return randngd.ngd_solver(randngd.NGDFull(metric, key=0))


def ssbroyden(problem: InJax) -> Any:
    """Self-scaled Broyden with a strong Wolfe search; no tolerance at which it would stop."""
    return ssbroyden_optimistix.SSBroyden(rtol=0.0, atol=0.0)


METHODS: dict[str, Callable[[InJax], Any]] = {
    "natural gradient (JAX)": natural_gradient,
    "SSBroyden (JAX)": ssbroyden,
}
