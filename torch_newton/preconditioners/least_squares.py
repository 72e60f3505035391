"""Gauss-Newton without damping: linear least squares with a cut at the numerical rank."""

from __future__ import annotations

import torch
from torch import Tensor

from .function_space import NOTHING, FunctionSpace


def least_squares_step(space: FunctionSpace, gradient: Tensor) -> Tensor:
    r"""The shortest minimiser d of the quadratic model, :math:`d = -(\hat J^T \hat J)^+ g`.

    With fewer parameters than rows it is taken from the singular values of the R x P matrix
    itself, whose condition is the square root of the Gram matrix's; otherwise, where that matrix
    may be too large to form, from the eigenvalues of the Gram matrix. Values below
    :math:`\max(R, P)\,\varepsilon`, or :math:`R\,\varepsilon`, times the largest count as zero,
    the bound that NumPy's ``matrix_rank`` takes for the rounding of a decomposition.

    The part of g that is :math:`\hat J^T` times the target is divided by a singular value once,
    the rest, zero unless the closure itself changes ``.grad``, twice.
    """
    jacobian, target = space.jacobian, space.target
    rest = gradient - jacobian.rmatvec(target)
    norm = torch.linalg.vector_norm
    exact = bool(norm(rest) <= NOTHING * norm(gradient))
    if space.dual:
        squares, U = torch.linalg.eigh(space.gram)
        inverse = _inverse(squares, len(squares))
        step = -jacobian.rmatvec(U @ (inverse * (U.T @ target)))
        if exact:
            return step
        return step - jacobian.rmatvec(U @ (inverse**2 * (U.T @ jacobian.matvec(rest))))
    rows = jacobian.dense()
    U, sigma, Vh = torch.linalg.svd(rows, full_matrices=False)
    inverse = _inverse(sigma, max(rows.shape))
    solution: Tensor = -Vh.T @ (inverse * (U.T @ target))
    if exact:
        return solution
    correction: Tensor = Vh.T @ (inverse**2 * (Vh @ rest))
    return solution - correction


def _inverse(values: Tensor, size: int) -> Tensor:
    """1 / values, and zero for those that are zero but for rounding."""
    kept = values > size * torch.finfo(values.dtype).eps * values.max()
    return torch.where(kept, 1 / values, torch.zeros_like(values))
