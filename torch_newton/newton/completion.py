"""Solves that start at the Gauss-Newton step, of which the rows are in hand."""

from __future__ import annotations

import torch
from torch import Tensor

from ..linalg.conjugate_gradient import conjugate_gradient
from ..linalg.operators import LinearOperator, damped
from ..linalg.solution import Solution, Stop
from ..preconditioners.low_rank import LowRankInverse
from .counting import Counter, counted

TOWARDS_GAUSS_NEWTON = 50
"""Most iterations to a Gauss-Newton step of too many rows for a factor: as many as that step may
take where it is the one asked for (`Curvature.max_products`)."""


def iterated_gauss_newton(
    inverse: LowRankInverse, gradient: Tensor, tol: float, counter: Counter
) -> Tensor:
    """The Gauss-Newton step d = -(J^T J + lambda I)^{-1} g of rows that are too many for a factor.

    Args:
        inverse: what preconditions, with its lambda.
        gradient: g, P entries.
        tol: relative energy error.
        counter: of products with J^T J, each of which takes as long as an evaluation or two.
    """
    A = damped(counted(inverse.space.gauss_newton(), counter), inverse.damping)
    M, most = inverse.operator(), TOWARDS_GAUSS_NEWTON
    b = -gradient
    found = conjugate_gradient(A, b, M, tol=tol, max_iter=most, energy=True, overwrite_b=True)
    return found.x


def completed(
    first: Tensor,
    A: LinearOperator,
    gradient: Tensor,
    M: LinearOperator,
    damping: float,
    tol: float,
    max_iter: int,
) -> tuple[list[Tensor], list[float], Solution]:
    """The solutions to offer of (A + lambda I) x = -g, by conjugate gradients from x = d.

    They solve for what d leaves, (A + lambda I) c = -g - (A + lambda I) d.

    Args:
        first: d, the Gauss-Newton step, P entries.
        A: the curvature, P x P.
        gradient: g, P entries.
        M: the damped inverse of the Gauss-Newton matrix.
        damping: lambda.
        tol: residual relative to g.
        max_iter: most iterations.

    Returns:
        d + c and, where d is offered beside it or c is zero, d; x^T A x of each; and c.
    """
    curved = A @ first
    residual = -gradient - curved - damping * first
    norm, norm_g = (float(torch.linalg.vector_norm(v)) for v in (residual, gradient))
    solution = conjugate_gradient(
        damped(A, damping),
        residual,
        M,
        tol=min(1.0, tol * norm_g / norm) if norm > 0 else 1.0,
        max_iter=max_iter,
        min_curvature=1e-3 * damping,
        overwrite_b=True,
    )
    found, curvatures = [first], [float(first @ curved)]
    if bool(solution.x.any()):
        x = first + solution.x
        curvature = float(x @ (curved + solution.Ax - damping * solution.x))
        # Where the curvature is negative the model cannot tell which of the two is better.
        others = 1 if solution.stop is Stop.NEGATIVE_CURVATURE else 0
        found, curvatures = [x, *found[:others]], [curvature, *curvatures[:others]]
    return found, curvatures, solution
