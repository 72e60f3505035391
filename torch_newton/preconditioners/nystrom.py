r"""A preconditioner from a few products with the Gauss-Newton matrix: its leading eigenvectors.

From :math:`Y = G \Omega` for a random orthonormal :math:`\Omega` of a few columns follow
:math:`G \approx U \hat\Lambda U^T` and

.. math:: P^{-1} = U (\hat\Lambda + \lambda I)^{-1} U^T
          + (I - U U^T) / (\hat\lambda_\ell + \lambda).

(Frangella, Tropp and Udell 2023, *Randomized Nyström preconditioning*, algorithms 2.1 and 5.1,
with the shift that keeps rounding from making it indefinite.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.residuals import find_residuals
from ..linalg.operators import LinearOperator, symmetric
from .base import AtDamping, Preconditioner


@dataclass(frozen=True)
class Nystrom(Preconditioner):
    """A low-rank approximation of the Gauss-Newton matrix, made anew for each step.

    For losses whose terms are recognised but whose per-sample Jacobian cannot be read: it needs
    products alone.

    Args:
        rank: products that it takes at each step, and eigenvectors that it has.
    """

    rank: int = 20

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError("rank must be at least 1")

    def __call__(self, loss: Tensor, params: Sequence[Tensor]) -> AtDamping | None:
        """None where no term of the loss is recognised."""
        residuals = find_residuals(loss)
        if not residuals.terms:
            return None
        values, vectors = approximation(residuals.gauss_newton(params), self.rank)
        return lambda damping: damped_inverse(values, vectors, damping)


def approximation(A: LinearOperator, rank: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, and eigenvectors, n x rank, of a Nyström approximation of A >= 0."""
    size = A.shape[0]
    generator = torch.Generator().manual_seed(0)
    omega = torch.randn(size, min(rank, size), generator=generator, dtype=torch.float64)
    omega, _ = torch.linalg.qr(omega.to(dtype=A.dtype, device=A.device))
    product = A @ omega
    shift = torch.finfo(A.dtype).eps * torch.linalg.matrix_norm(product)
    product = product + shift * omega
    core = omega.T @ product
    factor, info = torch.linalg.cholesky_ex((core + core.T) / 2)
    if int(info) != 0:  # A is zero, or rounding is larger than the shift
        values, basis = torch.linalg.eigh((core + core.T) / 2)
        values = values.clamp_min(torch.finfo(A.dtype).eps * values.abs().amax())
        factor = basis * values.clamp_min(torch.finfo(A.dtype).tiny).sqrt()
        half = torch.linalg.solve(factor, product.T).T
    else:
        half = torch.linalg.solve_triangular(factor, product.T, upper=False).T
    vectors, singular, _ = torch.linalg.svd(half, full_matrices=False)
    return (singular.square() - shift).clamp_min(0.0), vectors


def damped_inverse(values: Tensor, vectors: Tensor, damping: float) -> LinearOperator:
    """The inverse of U diag(values) U^T + lambda I, with the least value off the span of U."""
    rest = 1 / (values[-1] + damping)
    weights = 1 / (values + damping) - rest

    def product(v: Tensor) -> Tensor:
        return rest * v + vectors @ (weights * (vectors.T @ v))

    return symmetric(len(vectors), product, dtype=vectors.dtype, device=vectors.device)
