"""Conjugate gradients for many right-hand sides at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import LinearOperator


@dataclass(frozen=True)
class BlockSolution:
    """What a block of solves found.

    Attributes:
        X: the iterates, n x k.
        converged: for each column whether its residual fell below the tolerance.
        indefinite: whether some direction had no positive curvature, so that A is not definite.
        iterations: products with a block of columns.
    """

    X: Tensor
    converged: Tensor
    indefinite: bool
    iterations: int


def block_conjugate_gradient(
    A: LinearOperator,
    B: Tensor,
    M: LinearOperator | None = None,
    *,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> BlockSolution:
    """Solve A X = B for symmetric positive definite A, column by column but all at once.

    Each column has its own step lengths; the columns share their products with A and M, which is
    what makes the block faster than single solves. It stops where a direction of negative
    curvature proves that A is indefinite.

    Args:
        A: symmetric, n x n.
        B: n x k.
        M: symmetric positive definite, an approximation to A^{-1}.
        tol: relative residual of each column.
        max_iter: n where none is given.

    Raises:
        ValueError: B does not fit A.
    """
    if B.ndim != 2 or A.shape != (len(B), len(B)):
        raise ValueError(f"an operator of {A.shape} does not fit B of {tuple(B.shape)}")
    X, R = torch.zeros_like(B), B.clone()
    target = tol * torch.linalg.vector_norm(B, dim=0)
    Z = R if M is None else M @ R
    D, rz = Z.clone(), (R * Z).sum(0)
    active = torch.linalg.vector_norm(R, dim=0) > target
    iterations, indefinite = 0, False
    while bool(active.any()) and iterations < (len(B) if max_iter is None else max_iter):
        index = active.nonzero()[:, 0]
        P = D[:, index]
        AP = A @ P
        iterations += 1
        curvature = (P * AP).sum(0)
        if bool((curvature <= 0).any()) or not bool(torch.isfinite(curvature).all()):
            indefinite = True
            break
        alpha = rz[index] / curvature
        X[:, index] += alpha * P
        R[:, index] -= alpha * AP
        Z = R[:, index] if M is None else M @ R[:, index]
        before = rz[index]
        rz[index] = (R[:, index] * Z).sum(0)
        D[:, index] = Z + rz[index] / before * P
        active = torch.linalg.vector_norm(R, dim=0) > target
        active &= rz > 0  # rounding has made the preconditioner indefinite
    converged = torch.linalg.vector_norm(R, dim=0) <= target
    return BlockSolution(X, converged, indefinite, iterations)
