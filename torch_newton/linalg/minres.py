"""Minimum residuals: the solve for symmetric matrices that are not definite."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .flat import add_multiple_, norm
from .lanczos import Tridiagonal
from .operators import LinearOperator, own_product
from .solution import Solution, Stop, check_system


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

    It holds ten vectors of n entries at a time, and what a product takes.

    Args:
        A: symmetric, n x n.
        b: n entries.
        tol: stop when |b - A x| <= tol |b|, with the residual formed anew.
        max_iter: at most so many iterations in all; 10 n where none is given. In exact
            arithmetic n would do; rounding makes vectors of the recursion lose their
            orthogonality, and eigenvalues that were already found are found again.

    Raises:
        ValueError: A is not square, or b does not fit it.
    """
    check_system(A, b)
    budget = 10 * len(b) if max_iter is None else max_iter
    target = tol * norm(b)
    best = _run(A, b, target, budget)
    iterations = best.iterations
    while best.stop is Stop.MAX_ITERATIONS and iterations < budget:
        correction = _run(A, b - best.Ax, target, budget - iterations)
        iterations += correction.iterations
        # A run that rounding does not stop gains digits; one that does not halve the residual
        # is at the limit of the arithmetic, and so would be the next.
        if not correction.residual_norm < 0.5 * best.residual_norm:
            break
        best.x.add_(correction.x)
        best.Ax.add_(correction.Ax)
        best = replace(correction, x=best.x, Ax=best.Ax)
    return replace(best, iterations=iterations)


def _run(A: LinearOperator, b: Tensor, target: float, max_iter: int) -> Solution:
    """One sweep of the recursion, in the notation of Choi, Paige and Saunders (2011).

    It goes on to half the target, because the residual that its own recursion reports is a
    little smaller than the true one, which must meet the target; and it ends where that residual
    is below rounding.
    """
    x = torch.zeros_like(b)
    v_before, v = torch.zeros_like(b), b.clone()
    w_before, w = torch.zeros_like(b), torch.zeros_like(b)
    beta = phi = norm(b)
    # Givens rotation of the last column but one, and of the last.
    c_before, s_before, c, s = 1.0, 0.0, 1.0, 0.0
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    iterations, rounding, largest = 0, 0.0, 0.0
    unit = torch.finfo(b.dtype).eps
    while iterations < max_iter and abs(phi) > max(0.5 * target, rounding) and beta > 0:
        v.div_(beta)
        Av = own_product(A, v)
        iterations += 1
        alpha = float(v @ Av)
        if iterations > 1:
            add_multiple_(Av, -beta, v_before)
        v_before, v, beta_before = v, add_multiple_(Av, -alpha, v), beta
        del Av
        beta = norm(v)
        if not (math.isfinite(alpha) and math.isfinite(beta)):
            return _result(A, b, x, target, iterations, diagonal, off_diagonal, finite=False)
        diagonal.append(alpha)
        off_diagonal.append(beta)

        epsilon = s_before * beta_before if iterations > 1 else 0.0
        delta_bar = c_before * beta_before if iterations > 1 else 0.0
        delta = c * delta_bar + s * alpha
        gamma_bar = c * alpha - s * delta_bar
        gamma = math.hypot(gamma_bar, beta)
        largest = max(largest, abs(alpha) + beta + beta_before)
        # A handful of roundings of A's size make up gamma; below that it is zero, A is singular
        # on this space, and x has the least residual already.
        if gamma <= 10 * unit * largest:
            break
        c_before, s_before = c, s
        c, s = gamma_bar / gamma, beta / gamma
        # w, w_before = (v_before - epsilon w_before - delta w) / gamma, w
        w_before.mul_(-epsilon).add_(v_before)
        w_before, w = w, add_multiple_(w_before, -delta, w).div_(gamma)
        add_multiple_(x, c * phi, w)
        phi = -s * phi
        rounding = unit * largest * norm(x)
    return _result(A, b, x, target, iterations, diagonal, off_diagonal)


def _result(
    A: LinearOperator,
    b: Tensor,
    x: Tensor,
    target: float,
    iterations: int,
    diagonal: list[float],
    off_diagonal: list[float],
    finite: bool = True,
) -> Solution:
    """The solution with its true residual, for which A is multiplied once more."""
    Ax = own_product(A, x)
    residual = norm(b - Ax)
    if not (finite and math.isfinite(residual)):
        stop = Stop.NON_FINITE
    else:
        stop = Stop.CONVERGED if residual <= target else Stop.MAX_ITERATIONS
    ritz = math.inf
    if diagonal:
        ritz = Tridiagonal.of(diagonal, off_diagonal[:-1]).smallest()
    return Solution(x, Ax, stop, iterations + 1, residual, ritz, None)
