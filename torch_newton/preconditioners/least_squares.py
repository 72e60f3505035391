"""Gauss-Newton without damping: linear least squares with a cut at the numerical rank."""

from __future__ import annotations

import torch
from torch import Tensor

from ..linalg.row_compression import compressed
from .function_space import NOTHING, FunctionSpace


def least_squares_step(space: FunctionSpace, gradient: Tensor) -> Tensor:
    r"""The shortest minimiser d of the quadratic model, :math:`d = -(\hat J^T \hat J)^+ g`.

    With fewer parameters than rows it is taken from the singular values of the R x P matrix
    itself, or of fewer rows that stand for all (`row_compression`), whose condition is the square
    root of the Gram matrix's; otherwise, where that matrix may be too large to form, from the
    eigenvalues of the Gram matrix. Values below :math:`\max(R, P)\,\varepsilon`, or
    :math:`R\,\varepsilon`, times the largest count as zero, the bound that NumPy's ``matrix_rank``
    takes for the rounding of a decomposition. Rows that were computed in single precision have
    that one's :math:`\varepsilon`, and their Gram matrix in double precision its square.

    The part of g that is :math:`\hat J^T` times the target is divided by a singular value once,
    the rest, zero unless the closure itself changes ``.grad``, twice.
    """
    jacobian, target = space.jacobian, space.target
    least = max(jacobian.shape) * torch.finfo(jacobian.like[0].dtype).eps
    rest = gradient - jacobian.rmatvec(target)
    norm = torch.linalg.vector_norm
    exact = bool(norm(rest) <= NOTHING * norm(gradient))
    if space.dual:
        squares, U = torch.linalg.eigh(space.gram)
        inverse = _inverse(squares, max(_share(squares, len(squares)), least**2))
        step = -jacobian.rmatvec(U @ (inverse * (U.T @ target)))
        if exact:
            return step
        return step - jacobian.rmatvec(U @ (inverse**2 * (U.T @ jacobian.matvec(rest))))
    rows, target = compressed(jacobian, target)
    U, sigma, Vh = torch.linalg.svd(rows, full_matrices=False)
    inverse = _inverse(sigma, max(_share(sigma, max(jacobian.shape)), least))
    solution: Tensor = -Vh.T @ (inverse * (U.T @ target))
    if exact:
        return solution
    correction: Tensor = Vh.T @ (inverse**2 * (Vh @ rest))
    return solution - correction


def _share(values: Tensor, size: int) -> float:
    """What counts as rounding of a decomposition, relative to the largest value."""
    return size * torch.finfo(values.dtype).eps


def _inverse(values: Tensor, share: float) -> Tensor:
    """1 / values, and zero for those up to a share of the largest."""
    kept = values > share * values.max()
    return torch.where(kept, 1 / values, torch.zeros_like(values))
