"""Minimum residuals: the solve for symmetric matrices that are not definite."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .conjugate_gradient import _check, _norm
from .lanczos import Tridiagonal
from .operators import LinearOperator
from .solution import Solution, Stop


def minimum_residual(
    A: LinearOperator,
    b: Tensor,
    *,
    tol: float = 1e-8,
    max_iter: int | None = None,
) -> Solution:
    r"""Solve A x = b for symmetric A of any inertia by minimising |b - A x| over Krylov spaces.

    Paige and Saunders (1975), *Solution of sparse indefinite systems of linear equations*.
    Rounding limits one run to about :math:`\kappa(A)^2` units in the last place, so runs are
    repeated on the residual until the true residual is small, or no longer halves.

    Args:
        A: symmetric, n x n.
        b: n entries.
        tol: stop when |b - A x| <= tol |b|, with the residual formed anew.
        max_iter: at most so many iterations in all; 10 n where none is given.

    Raises:
        ValueError: A is not square, or b does not fit it.
    """
    _check(A, b)
    budget = 10 * len(b) if max_iter is None else max_iter
    target = tol * _norm(b)
    best = _run(A, b, target, budget)
    iterations = best.iterations
    while best.stop is Stop.MAX_ITERATIONS and iterations < budget:
        correction = _run(A, b - best.Ax, target, budget - iterations)
        iterations += correction.iterations
        if not correction.residual_norm < 0.5 * best.residual_norm:
            break
        best = replace(correction, x=best.x + correction.x, Ax=best.Ax + correction.Ax)
    return replace(best, iterations=iterations)


def _run(A: LinearOperator, b: Tensor, target: float, max_iter: int) -> Solution:
    """One sweep of the recursion; it ends a little early so that rounding is seen, not hidden."""
    x = torch.zeros_like(b)
    v_before, v = torch.zeros_like(b), b
    w_before, w = torch.zeros_like(b), torch.zeros_like(b)
    beta = phi = _norm(b)
    # Givens rotation of the last column but one, and of the last.
    c_before, s_before, c, s = 1.0, 0.0, 1.0, 0.0
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    iterations, finite, rounding, largest = 0, True, 0.0, 0.0
    epsilon_of_dtype = torch.finfo(b.dtype).eps
    while iterations < max_iter and abs(phi) > max(0.5 * target, rounding) and beta > 0 and finite:
        v = v / beta
        Av = A @ v
        iterations += 1
        alpha = float(v @ Av)
        if iterations > 1:
            Av = Av - beta * v_before
        v_before, v, beta_before = v, Av - alpha * v, beta
        beta = _norm(v)
        if not (math.isfinite(alpha) and math.isfinite(beta)):
            finite = False
            break
        diagonal.append(alpha)
        off_diagonal.append(beta)

        epsilon = s_before * beta_before if iterations > 1 else 0.0
        delta_bar = c_before * beta_before if iterations > 1 else 0.0
        delta = c * delta_bar + s * alpha
        gamma_bar = c * alpha - s * delta_bar
        gamma = math.hypot(gamma_bar, beta)
        largest = max(largest, abs(alpha) + beta + beta_before)
        if gamma <= 10 * epsilon_of_dtype * largest:
            break  # A is singular on this space: x has the least residual already
        c_before, s_before = c, s
        c, s = gamma_bar / gamma, beta / gamma
        w_before, w = w, (v_before - epsilon * w_before - delta * w) / gamma
        x = x + (c * phi) * w
        phi = -s * phi
        rounding = epsilon_of_dtype * largest * _norm(x)

    Ax = A @ x
    residual = _norm(b - Ax)
    if not (finite and math.isfinite(residual)):
        stop = Stop.NON_FINITE
    else:
        stop = Stop.CONVERGED if residual <= target else Stop.MAX_ITERATIONS
    tridiagonal = Tridiagonal(
        torch.tensor(diagonal, dtype=torch.float64),
        torch.tensor(off_diagonal[:-1], dtype=torch.float64),
    )
    ritz = float(tridiagonal.ritz_values()[0]) if diagonal else math.inf
    return Solution(x, Ax, stop, iterations + 1, residual, ritz, None, tridiagonal)
