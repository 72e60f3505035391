"""The outcome of an iterative linear solve."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor

from .operators import LinearOperator, check_square


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
    """What a linear solve of A x = b found, and why it stopped there.

    Attributes:
        x: the iterate, n entries.
        Ax: A x, which the solve has at no further cost.
        stop: why it stopped.
        iterations: directions tried, each one product with A.
        residual_norm: |b - A x|.
        curvature_min: the smallest curvature encountered: of conjugate gradients
            p^T A p / p^T p over the directions p, of minimum residuals the smallest Ritz value.
            Either is an upper bound of A's smallest eigenvalue. Infinite where none was tried.
        direction: the direction whose curvature stopped the solve, where one did.
    """

    x: Tensor
    Ax: Tensor
    stop: Stop
    iterations: int
    residual_norm: float
    curvature_min: float
    direction: Tensor | None


def check_system(A: LinearOperator, b: Tensor) -> None:
    """Check that A x = b is a system of n equations in n unknowns.

    Raises:
        ValueError: A is not square, or b does not fit it.
    """
    check_square(A)
    if b.shape != A.shape[:1]:
        n = A.shape[0]
        raise ValueError(f"b must be a vector of {n} entries, not of shape {tuple(b.shape)}")
