"""What one optimizer step did, in plain numbers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Any


class Stop(enum.Enum):
    """Why the linear solver stopped; each member's text says what it means for the user."""

    CONVERGED = "the residual fell below the tolerance"
    MAX_ITERATIONS = (
        "the iteration cap was reached: the step is a truncated Newton step; "
        "raise cg_max_iter for a more exact one"
    )
    NEGATIVE_CURVATURE = (
        "the damped matrix is not positive definite: raise the damping or the width, "
        'or use curvature="gauss_newton"'
    )
    NON_FINITE = (
        "a product was not finite: look for overflow in the model, use float64, or scale the inputs"
    )
    PRECONDITIONER = (
        "the preconditioner is not positive definite, if only by rounding: "
        "raise the damping, or use float64"
    )
    STATIONARY = "the gradient is zero: nothing was solved"


class Path(enum.Enum):
    """How the linear system of a step was solved."""

    PLAIN = "conjugate gradients"
    USER = "conjugate gradients, preconditioned by the callable given"
    FUNCTION_SPACE = "the Gauss-Newton step in function space, then conjugate gradients from it"
    INDEFINITE = "minimum residuals, because the matrix is indefinite"
    SAMPLED_ROWS = "conjugate gradients, preconditioned by a sample of the rows in function space"


@dataclass(frozen=True)
class Step:
    """What one step of `RegNewton` did.

    The numbers are those of the last attempt of the step, the accepted one where there is one;
    `cg_iterations`, `products` and `closure_calls` are sums over all its attempts.

    Attributes:
        iteration: 1 for the first step.
        loss: L before the step.
        loss_after: L at the point tried last, on the same batch with the same random state.
        gradient_norm: |g|, Euclidean.
        damping: lambda, absolute.
        ratio: actual over predicted reduction of L; NaN where the rule makes no ratio test.
        accepted: whether the parameters moved.
        attempts: how many damping values were tried.
        cg_iterations: iterations of the linear solver.
        products: Hessian- or Gauss-Newton-vector products.
        closure_calls: evaluations of the closure.
        stop: why the linear solver stopped.
        negative_curvature: whether H + lambda I was seen not to be positive definite.
        curvature_min: smallest p^T H p / p^T p over the solver's directions, without lambda;
            an upper bound of the smallest eigenvalue of H.
        step_length: Euclidean length of the parameters' move, zero where it was refused.
        scale: s, the curvature scale that the damping is measured against (theory: |Hg|/|g|).
        width: n, the width that the damping is scaled by.
        path: how the linear system was solved and preconditioned.
    """

    iteration: int
    loss: float
    loss_after: float
    gradient_norm: float
    damping: float
    ratio: float
    accepted: bool
    attempts: int
    cg_iterations: int
    products: int
    closure_calls: int
    stop: Stop
    negative_curvature: bool
    curvature_min: float
    step_length: float
    scale: float
    width: int
    path: Path

    @property
    def indefiniteness(self) -> float:
        """max(0, -curvature_min) / damping: above one, H + lambda I is indefinite."""
        excess = max(0.0, -self.curvature_min)
        if excess == 0.0:
            return 0.0
        return excess / self.damping if self.damping > 0 else float("inf")

    def numbers(self) -> dict[str, float | int | bool]:
        """The step as numbers alone, the form in which a checkpoint can hold it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["stop"] = list(Stop).index(self.stop)
        values["path"] = list(Path).index(self.path)
        return values

    @classmethod
    def from_numbers(cls, numbers: dict[str, float | int | bool]) -> Step:
        """The inverse of `numbers`."""
        values: dict[str, Any] = {field.name: numbers[field.name] for field in fields(cls)}
        values["stop"] = list(Stop)[int(numbers["stop"])]
        values["path"] = list(Path)[int(numbers["path"])]
        return cls(**values)
