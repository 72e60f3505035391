"""Solves of symmetric systems whose definiteness is not known beforehand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .conjugate_gradient import conjugate_gradient
from .flat import norm
from .minres import minimum_residual
from .operators import LinearOperator, symmetric
from .solution import Solution, Stop

DENSE_UP_TO = 4096
"""The largest n for which a matrix is formed: 128 MiB in double precision, two of which are alive
at once. Time sets no smaller limit: elimination takes 2/3 n^3 operations, and the 2 n products of
the iterations before, each some 8 n for a sample where A is the Hessian of a network, have cost
more wherever there are more than n/24 samples."""


class SolveError(RuntimeError):
    """A linear system was not solved to the tolerance asked for."""


def solve_symmetric(
    A: LinearOperator,
    b: Tensor,
    M: LinearOperator | None = None,
    *,
    tol: float = 1e-8,
    max_iter: int | None = None,
    min_curvature: float = 0.0,
) -> tuple[Solution, bool]:
    """Solve A x = b to `tol`: conjugate gradients, and minimum residuals where A is indefinite.

    Args:
        A: symmetric, n x n.
        b: n entries.
        M: a preconditioner of conjugate gradients, symmetric positive definite.
        tol: stop when |b - A x| <= tol |b|.
        max_iter: iterations of both methods together, but at least one of the second; 10 n
            where none is given, as in `minimum_residual`.
        min_curvature: the least curvature that counts as positive.

    Returns:
        The solution, and whether conjugate gradients encountered negative curvature.

    Raises:
        ValueError: A is not square, or b does not fit it.
    """
    budget = 10 * len(b) if max_iter is None else max_iter
    solution = conjugate_gradient(A, b, M, tol=tol, max_iter=budget, min_curvature=min_curvature)
    if solution.stop is not Stop.NEGATIVE_CURVATURE:
        return solution, False
    left = max(1, budget - solution.iterations)
    del solution  # three vectors, which need not stand beside those of the other method
    return minimum_residual(A, b, tol=tol, max_iter=left), True


def solve_or_eliminate(
    A: LinearOperator,
    b: Tensor,
    M: LinearOperator | None = None,
    *,
    tol: float = 1e-8,
    dense_up_to: int = DENSE_UP_TO,
) -> tuple[Solution, bool]:
    """`solve_symmetric`, and where that does not converge the same from the matrix in memory.

    Iterations end after 2 n products: in exact arithmetic n would do, and another n form the
    matrix, after which the solution depends on its condition no more than any other does.

    Args:
        A: symmetric, n x n.
        b: n entries.
        M: a preconditioner of conjugate gradients, symmetric positive definite.
        tol: stop when |b - A x| <= tol |b|.
        dense_up_to: the largest n for which the matrix is formed.
    """
    n = len(b)
    if n > dense_up_to:
        return solve_symmetric(A, b, M, tol=tol)
    solution, indefinite = solve_symmetric(A, b, M, tol=tol, max_iter=2 * n)
    if solution.stop in (Stop.CONVERGED, Stop.NON_FINITE):
        return solution, indefinite
    return _dense(A, b, solution, tol), indefinite


def _dense(A: LinearOperator, b: Tensor, found: Solution, tol: float) -> Solution:
    """The solution by elimination in double precision, or `found` where that is no better.

    It has converged, too, where its residual is that of rounding in A x itself.
    """
    entries = A.dense().double()
    matrix = (entries + entries.T) / 2
    x, info = torch.linalg.solve_ex(matrix, b.double())
    if int(info) != 0:  # singular: of the x with the least residual the shortest
        x = torch.linalg.pinv(matrix, hermitian=True) @ b.double()
    x = x.to(b.dtype)
    Ax = A @ x
    # That of the dtype, or what a product in lower precision differs by from the matrix made of
    # such products; asymmetry of the same origin is a few times that.
    rounding = torch.finfo(b.dtype).eps * norm(matrix) * norm(x)
    rounding = max(rounding, 10 * norm(Ax.double() - entries @ x.double()))
    best = replace(found, iterations=found.iterations + len(b) + 1)
    residual = norm(b - Ax)
    if residual < found.residual_norm:
        best = replace(best, x=x, Ax=Ax, residual_norm=residual)
    if best.residual_norm <= max(tol * norm(b), rounding):
        best = replace(best, stop=Stop.CONVERGED, direction=None)
    return best


def inverse(
    A: LinearOperator,
    *,
    tol: float = 1e-10,
    max_iter: int | None = None,
    M: LinearOperator | None = None,
) -> LinearOperator:
    """A^{-1} of a symmetric operator, by one linear solve a product.

    Args:
        A: symmetric and not singular, n x n.
        tol: relative residual of each solve. The default is near what double precision reaches
            on a matrix with a condition number of 1e6.
        max_iter: iterations a solve may take; 10 n where none is given.
        M: a preconditioner, an approximation to A^{-1}.

    Raises:
        SolveError: at a product, where the residual stays above `tol`.
    """

    def product(b: Tensor) -> Tensor:
        solution, _ = solve_symmetric(A, b, M, tol=tol, max_iter=max_iter)
        if solution.stop is not Stop.CONVERGED:
            raise SolveError(
                f"a solve with a {A.shape[0]} x {A.shape[0]} operator stopped after "
                f"{solution.iterations} iterations with a residual of "
                f"{solution.residual_norm:.1e} ({solution.stop.value}); raise the damping, "
                f"max_iter or tol"
            )
        return solution.x

    return symmetric(A.shape[0], product, dtype=A.dtype, device=A.device)
