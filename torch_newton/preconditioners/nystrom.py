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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..graph.residuals import find_residuals
from ..linalg.operators import LinearOperator, symmetric
from .base import AtDamping


@dataclass
class Nystrom:
    """A low-rank approximation of the Gauss-Newton matrix, renewed now and then.

    Args:
        rank: products that it takes, and eigenvectors that it has.
        every: steps after which it is renewed.
    """

    rank: int = 50
    every: int = 10
    _step: int = field(default=0, init=False, repr=False)
    _known: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.every < 1:
            raise ValueError("rank and every must be at least 1")

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, so that a resumed run renews when this one would have."""
        if self._known is None:
            return {"step": self._step}
        return {"step": self._step, "values": self._known[0], "vectors": self._known[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._step = int(state["step"])
        self._known = (state["values"], state["vectors"]) if "values" in state else None

    def __call__(self, loss: Tensor, params: Sequence[Tensor]) -> AtDamping | None:
        """None where no term of the loss is recognised."""
        if self._known is None or self._step % self.every == 0:
            residuals = find_residuals(loss)
            if not residuals.terms:
                return None
            self._known = approximation(residuals.gauss_newton(params), self.rank)
        self._step += 1
        values, vectors = self._known
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
