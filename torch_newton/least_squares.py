"""Gauss-Newton without damping: linear least squares with a cut at the numerical rank."""

from __future__ import annotations

import torch
from torch import Tensor

from .function_space import FunctionSpace


def least_squares_step(space: FunctionSpace, gradient: Tensor) -> Tensor:
    r"""The shortest minimiser d of the quadratic model, :math:`d = -(\hat J^T \hat J)^+ g`.

    From the singular values of the R x P matrix itself, whose condition is the square root of
    the Gram matrix's; those below :math:`\max(R, P)\,\varepsilon` times the largest count as
    zero. The part of g that is :math:`\hat J^T` times the target is divided by a singular value
    once, the rest, zero unless the closure itself changes ``.grad``, twice.
    """
    rows = space.tangents.dense()
    rest = gradient - space.tangents.pull(space.target)
    U, sigma, Vh = torch.linalg.svd(rows, full_matrices=False)
    kept = sigma > max(rows.shape) * torch.finfo(rows.dtype).eps * sigma[0]
    inverse = torch.where(kept, 1 / sigma, torch.zeros_like(sigma))
    solution: Tensor = -Vh.T @ (inverse * (U.T @ space.target))
    norm = torch.linalg.vector_norm
    if bool(norm(rest) <= 1e-8 * norm(gradient)):
        return solution
    correction: Tensor = Vh.T @ (inverse**2 * (Vh @ rest))
    return solution - correction
