"""Solves of symmetric systems whose definiteness is not known beforehand."""

from __future__ import annotations

from torch import Tensor

from .conjugate_gradient import conjugate_gradient
from .minres import minimum_residual
from .operators import LinearOperator, symmetric
from .solution import Solution, Stop


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
    return minimum_residual(A, b, tol=tol, max_iter=left), True


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
