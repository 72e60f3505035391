r"""The damped inverse of a Gauss-Newton matrix whose rows are in hand.

For R <= P the dual form is used,

.. math:: (\hat J^T \hat J + S + \lambda I)^{-1} v
          = (S + \lambda I)^{-1} (v - \hat J^T (\hat J \hat J^T + \lambda I)^{-1} \hat J v)

(Woodbury 1950), where the diagonal S is zero but for parameters that the Jacobian leaves out, the
columns that are zero; for P < R the P x P matrix itself is factored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..linalg.operators import LinearOperator, in_dtype, symmetric

if TYPE_CHECKING:
    from .function_space import FunctionSpace


@dataclass(frozen=True)
class DampedInverse:
    """The inverse of the Gauss-Newton matrix plus lambda I, for one lambda.

    Attributes:
        space: what is known of the Gauss-Newton matrix.
        damping: lambda.
        factor: the Cholesky factor of the smaller matrix plus lambda I.
    """

    space: FunctionSpace
    damping: float
    factor: Tensor

    @classmethod
    def of(cls, space: FunctionSpace, damping: float) -> DampedInverse:
        """Factor what is to be inverted, once for each lambda."""
        gram = space.gram
        if space.shift is not None and not space.dual:
            gram = gram + torch.diag(space.shift)
        return cls(space, damping, cholesky(gram, damping))

    def operator(self, dtype: torch.dtype | None = None) -> LinearOperator:
        """The inverse as an operator, P x P, for vectors of another precision if one is given."""
        kind = self.factor.dtype
        M = symmetric(self.space.size, self._product, dtype=kind, device=self.factor.device)
        return in_dtype(M, dtype or kind)

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        r"""The Gauss-Newton step :math:`d = -(\hat J^T \hat J + \lambda I)^{-1} g`, and J d.

        The part of g that is :math:`\hat J^T` times the target is inverted without a division
        by lambda, and so without the cancellation that a small lambda brings.
        """
        jacobian = self.space.jacobian
        if not self.space.dual:
            direction = -self._solve(gradient)
            return direction, jacobian.matvec(direction)
        solution = self._solve(-self.space.target)
        direction = jacobian.rmatvec(solution)
        rest = self.space.rest(gradient)
        if rest is None:
            return direction, self.space.gram @ solution
        direction = direction - self._product(rest)
        return direction, jacobian.matvec(direction)

    def correction(self, remainder: Tensor) -> Tensor:
        r"""The step :math:`-(\hat J^T \hat J + \lambda I)^{-1} \hat J^T e` for R entries e."""
        if self.space.dual:
            return -self.space.jacobian.rmatvec(self._solve(remainder))
        return -self._solve(self.space.jacobian.rmatvec(remainder))

    def _product(self, v: Tensor) -> Tensor:
        if not self.space.dual:
            return self._solve(v)
        jacobian, shift = self.space.jacobian, self.space.shift
        product = jacobian.rmatvec(self._solve(jacobian.matvec(v)))
        torch.sub(v, product, out=product)  # in the memory of one vector
        return product.div_(self.damping if shift is None else self.damping + shift)

    def _solve(self, u: Tensor) -> Tensor:
        return torch.cholesky_solve(u.unsqueeze(1), self.factor).squeeze(1)


def cholesky(gram: Tensor, damping: float) -> Tensor:
    """The factor of gram + damping I; more damping where rounding has made that indefinite.

    It grows tenfold at a time, from an epsilon of the mean eigenvalue at least, since rounding
    errors of a Gram matrix are of that order; a tenth less would not factor.
    """
    shift = damping
    while True:
        shifted = gram.clone()
        shifted.diagonal().add_(shift)
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0 or not math.isfinite(shift):
            return factor
        limits = torch.finfo(gram.dtype)
        shift = max(10 * shift, limits.tiny, limits.eps * float(gram.diagonal().mean()))
