"""Preconditioned conjugate gradients that notice negative curvature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .lanczos import Tridiagonal
from .operators import LinearOperator
from .solution import Solution, Stop


def conjugate_gradient(
    A: LinearOperator,
    b: Tensor,
    M: LinearOperator | None = None,
    *,
    x0: Tensor | None = None,
    tol: float = 1e-8,
    max_iter: int | None = None,
    min_curvature: float = 0.0,
) -> Solution:
    r"""Solve A x = b for symmetric positive definite A, of which only products are known.

    The iteration of Hestenes and Stiefel (1952), preconditioned by M, an approximation to
    :math:`A^{-1}`. It stops at the first direction with
    :math:`p^T A p \le` `min_curvature` :math:`p^T p`, which proves that A is not definite, and
    returns the iterate reached before; from ``x0 = None`` that iterate, unless zero, is a descent
    direction of :math:`x^T A x/2 - b^T x` (Steihaug 1983).

    Args:
        A: symmetric, n x n.
        b: n entries.
        M: symmetric positive definite, n x n; the identity where none is given.
        x0: where to start; zero where none is given, which saves a product.
        tol: stop when |b - A x| <= tol |b|.
        max_iter: at most so many iterations; n where none is given.
        min_curvature: the least curvature that counts as positive.

    Raises:
        ValueError: A is not square, or b does not fit it.
    """
    _check(A, b)
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    Ax = torch.zeros_like(b) if x0 is None else A @ x
    r = b - Ax
    target = tol * _norm(b)
    curvature_min, direction = math.inf, None
    alphas: list[float] = []  # a product each
    betas: list[float] = []  # a change of direction each
    iterations = 0

    p = z = r if M is None else M @ r
    rz, norm = float(r @ z), _norm(r)
    stop = _state(norm, rz, target)
    limit = len(b) if max_iter is None else max_iter
    while stop is None and iterations < limit:
        Ap = A @ p
        iterations += 1
        pAp, pp = float(p @ Ap), float(p @ p)
        if not (math.isfinite(pAp) and math.isfinite(pp)):
            stop = Stop.NON_FINITE
            break
        curvature_min = min(curvature_min, pAp / pp)
        if pAp != 0.0:
            alphas.append(rz / pAp)
        if pAp <= min_curvature * pp:
            stop, direction = Stop.NEGATIVE_CURVATURE, p
            break
        step = alphas[-1] * p
        r = r - alphas[-1] * Ap
        z = r if M is None else M @ r
        rz_before, rz, norm = rz, float(r @ z), _norm(r)
        stop = _state(norm, rz, target)
        if stop is Stop.NON_FINITE:
            break
        x, Ax = x + step, Ax + alphas[-1] * Ap
        betas.append(rz / rz_before)
        p = z + betas[-1] * p

    return Solution(
        x,
        Ax,
        Stop.MAX_ITERATIONS if stop is None else stop,
        iterations,
        norm,
        curvature_min,
        direction,
        _tridiagonal(alphas, betas),
    )


def _state(norm: float, rz: float, target: float) -> Stop | None:
    """What a residual says, by its norm and by r^T M r; None to go on."""
    if not (math.isfinite(norm) and math.isfinite(rz)):
        return Stop.NON_FINITE
    if norm <= target:
        return Stop.CONVERGED
    return Stop.PRECONDITIONER if rz <= 0 else None


def _tridiagonal(alphas: list[float], betas: list[float]) -> Tridiagonal:
    """The Lanczos matrix of conjugate gradients (Golub and Van Loan 2013, section 11.3.8)."""
    off_diagonal = [
        math.sqrt(beta) / alpha for alpha, beta in zip(alphas[:-1], betas, strict=False)
    ]
    carried = [0.0, *(beta / alpha for alpha, beta in zip(alphas, betas, strict=False))]
    diagonal = [1 / alpha + c for alpha, c in zip(alphas, carried, strict=False)]
    return Tridiagonal(
        torch.tensor(diagonal, dtype=torch.float64),
        torch.tensor(off_diagonal, dtype=torch.float64),
    )


def _norm(v: Tensor) -> float:
    return float(torch.linalg.vector_norm(v))


def _check(A: LinearOperator, b: Tensor) -> None:
    rows, columns = A.shape
    if rows != columns:
        raise ValueError(f"the operator must be square, not {rows} x {columns}")
    if b.shape != (rows,):
        raise ValueError(f"b must be a vector of {rows} entries, not of shape {tuple(b.shape)}")
