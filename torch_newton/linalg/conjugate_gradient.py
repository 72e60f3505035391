"""Preconditioned conjugate gradients that notice negative curvature."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from .flat import add_multiple_, numbers
from .operators import LinearOperator, own_product
from .solution import Solution, Stop, check_system


def conjugate_gradient(
    A: LinearOperator,
    b: Tensor,
    M: LinearOperator | None = None,
    *,
    tol: float = 1e-8,
    max_iter: int | None = None,
    min_curvature: float = 0.0,
    overwrite_b: bool = False,
    energy: bool = False,
) -> Solution:
    r"""Solve A x = b for symmetric positive definite A, of which only products are known.

    The iteration of Hestenes and Stiefel (1952) from x = 0, preconditioned by M, an
    approximation to :math:`A^{-1}`. It stops at the first direction with
    :math:`p^T A p \le` `min_curvature` :math:`p^T p`, which for the default of zero proves that
    A is not definite, and returns the iterate reached before. That iterate, unless zero, is a
    descent direction of :math:`x^T A x/2 - b^T x` (Steihaug 1983).

    It holds five vectors of n entries at a time, the product of the iteration among them, and
    what a product takes: x, A x, the residual, the direction p and A p; with a preconditioner one
    more.

    Args:
        A: symmetric, n x n.
        b: n entries.
        M: symmetric positive definite, n x n; the identity where none is given.
        tol: stop when |b - A x| <= tol |b|; the default is half of a double's digits, to which
            the residual of the recursion still agrees with the true one.
        max_iter: at most so many iterations; n where none is given, by which the residual would
            be zero in exact arithmetic.
        min_curvature: the least curvature that counts as positive.
        overwrite_b: whether the residual may take b's place in memory.
        energy: measure residuals in the norm of M in place of the Euclidean one. Where M is near
            the inverse of A that is the norm of the error, |x - A^{-1} b| in the norm of A.

    Raises:
        ValueError: A is not square, or b does not fit it.
    """
    check_system(A, b)
    x, Ax, r = torch.zeros_like(b), torch.zeros_like(b), b if overwrite_b else b.clone()
    limit = len(b) if max_iter is None else max_iter
    curvature_min, direction, iterations = math.inf, None, 0

    p = r.clone() if M is None else own_product(M, r)
    rz, residual = numbers(r @ p, vector_norm(r))
    target = tol * _measure(residual, rz, energy)
    stop = _state(residual, rz, target, energy)
    while stop is None and iterations < limit:
        Ap = A @ p
        iterations += 1
        pAp, pp = numbers(p @ Ap, p @ p)
        if not (math.isfinite(pAp) and math.isfinite(pp)):
            stop = Stop.NON_FINITE
            break
        curvature_min = min(curvature_min, pAp / pp)
        if pAp <= min_curvature * pp:
            stop, direction = Stop.NEGATIVE_CURVATURE, p
            break
        alpha = rz / pAp
        add_multiple_(r, -alpha, Ap)
        z = r if M is None else M @ r
        rz_before, (rz, residual) = rz, numbers(r @ z, vector_norm(r))
        stop = _state(residual, rz, target, energy)
        if stop is Stop.NON_FINITE:
            break  # before the overflow reaches x
        add_multiple_(x, alpha, p)
        add_multiple_(Ax, alpha, Ap)
        p.mul_(rz / rz_before).add_(z)
        del z, Ap  # not beside the next product
    stop = stop or Stop.MAX_ITERATIONS
    return Solution(x, Ax, stop, iterations, residual, curvature_min, direction)


def _state(residual: float, rz: float, target: float, energy: bool) -> Stop | None:
    """Why to stop at a residual r, from |r| and r^T M r; None to go on."""
    if not (math.isfinite(residual) and math.isfinite(rz)):
        return Stop.NON_FINITE
    if _measure(residual, rz, energy) <= target:
        return Stop.CONVERGED
    return Stop.PRECONDITIONER if rz <= 0 else None


def _measure(residual: float, rz: float, energy: bool) -> float:
    if not energy:
        return residual
    return math.sqrt(rz) if rz > 0 else (0.0 if residual == 0 else math.inf)
