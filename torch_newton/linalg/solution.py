"""The outcome of an iterative linear solve."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor

from .lanczos import Tridiagonal


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


@dataclass(frozen=True)
class Solution:
    """What a linear solve found, and why it stopped there.

    Attributes:
        x: the iterate.
        Ax: A x, which costs nothing more.
        stop: why.
        iterations: directions tried, each one product with A.
        residual_norm: |b - A x|, from the recursion.
        curvature_min: smallest p^T A p / p^T p over the directions p; infinite where none
            was tried.
        direction: the direction whose curvature stopped the solve, where one did.
        tridiagonal: of M^{1/2} A M^{1/2} in the Lanczos basis of the solve, float64 on the CPU.
    """

    x: Tensor
    Ax: Tensor
    stop: Stop
    iterations: int
    residual_norm: float
    curvature_min: float
    direction: Tensor | None
    tridiagonal: Tridiagonal
