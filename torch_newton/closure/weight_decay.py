r"""Weight decay as what it is: a term of the loss, with its own gradient and curvature.

With a weight :math:`w_p \ge 0` for each parameter a step minimises

.. math:: F(\theta) = L(\theta) + \tfrac12 \theta^T W \theta, \qquad
          \nabla F = \nabla L + W \theta, \qquad \nabla^2 F = \nabla^2 L + W,

W diagonal, so that training ends at the minimum of the ridge problem (Hoerl and Kennard 1970,
*Ridge regression*) whatever the curvature is. AdamW's decoupled decay (Loshchilov and Hutter 2019)
has another minimum for each learning rate. It is there because Adam divides the gradient of the
term by the scale of the loss's; a step that is solved with the curvature of both does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..linalg.flat import spread
from ..linalg.operators import LinearOperator, symmetric
from ..linalg.precision import at_least_single, solving_dtype


@dataclass(frozen=True)
class WeightDecay:
    """The term, at the point where a step begins.

    Attributes:
        weights: w of each parameter.
        like: the parameters.
        point: theta, P entries.
    """

    weights: Sequence[float]
    like: Sequence[Tensor]
    point: Tensor

    @cached_property
    def diagonal(self) -> Tensor:
        """W, P entries."""
        return spread(self.weights, self.like)

    @property
    def gradient(self) -> Tensor:
        """W theta, P entries."""
        return self.diagonal * self.point

    def loss(self, direction: Tensor | None = None) -> float:
        """The term itself at theta plus `direction`; at theta where that is None."""
        theta = self.point if direction is None else self.point + direction.to(self.point)
        return 0.5 * self.along(theta)

    def along(self, direction: Tensor) -> float:
        """d^T W d, a number, summed in double precision where the device has it."""
        kind = at_least_single(solving_dtype(direction.dtype, direction.device))
        pieces = direction.split_with_sizes([param.numel() for param in self.like])
        squares = [torch.linalg.vector_norm(d, dtype=kind).square() for d in pieces]
        weights = torch.tensor(self.weights, dtype=kind, device=direction.device)
        return float(weights @ torch.stack(squares))

    def curvature(self, A: LinearOperator) -> LinearOperator:
        """A + W, for a symmetric A."""
        W = self.diagonal.to(A.dtype)
        return symmetric(
            A.shape[0],
            lambda v: A.matvec(v) + W * v,
            dtype=A.dtype,
            device=A.device,
            matmat=None if A.matmat is None else lambda V: A @ V + W[:, None] * V,
        )
