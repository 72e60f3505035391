r"""The two factors of one block: second moments of the vectors whose products J is made of.

Of products :math:`l_i r_i^T` they are :math:`S = \sum_i l_i l_i^T` and
:math:`A = \frac1n \sum_i r_i r_i^T`, and :math:`A \otimes S` is the Gauss-Newton matrix of the
block as it would be if l and r were independent (Martens and Grosse 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.blocks import Shape
from ..graph.outer_products import Products
from ..linalg.kronecker import in_basis

MAX_FACTOR = 2048
"""Length of l or r up to which its moment is a matrix: beyond, only the diagonal is kept. An
eigendecomposition of 2048 takes 25 n^3 = 2e11 operations, about ten seconds on one core, and a
step of orthogonal iteration a fifth of it."""

MAX_VECTOR = 256
"""The same for parameters that are vectors, such as the scales of a normalization: their matrix
takes as much as that of a weight and holds as few parameters as one row of it."""

Mean = Callable[[Tensor], Tensor]
"""Of a tensor the mean over processes."""


@dataclass(frozen=True)
class Factors:
    """Sums over the products of one step, or running means of them.

    Attributes:
        left: S, G x a x a, or its diagonal, G x a.
        right: n A, G x b x b, or its diagonal, G x b.
        count: n, G numbers: of the products with a cotangent that is not zero. Padding, and
            points that do not enter the loss, would otherwise dilute A.
    """

    left: Tensor
    right: Tensor
    count: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        return self.left, self.right, self.count

    def mean(self, mean: Mean) -> Factors:
        """The mean over processes."""
        return Factors(*(mean(tensor) for tensor in self.tensors))

    def towards(self, before: Factors, keep: float) -> Factors:
        """`keep` times what was before, and the rest of this."""
        pairs = zip(self.tensors, before.tensors, strict=True)
        return Factors(*(torch.lerp(new, old, keep) for new, old in pairs))

    def is_like(self, other: Factors | None) -> bool:
        """Whether the shapes are the same."""
        if other is None:
            return False
        return all(a.shape == b.shape for a, b in zip(self.tensors, other.tensors, strict=True))

    def is_finite(self) -> bool:
        """Whether all entries are."""
        return all(bool(tensor.sum().isfinite()) for tensor in self.tensors)

    def diagonal_in(self, U: Tensor | None, V: Tensor | None) -> Tensor:
        """The diagonal of their Kronecker product in two bases, G x a x b."""
        rows = in_basis(self.left, U)[:, :, None]
        columns = in_basis(self.right, V)[:, None, :]
        count = self.count.clamp_min(torch.finfo(self.count.dtype).tiny)[:, None, None]
        return (rows * (columns / count)).clamp_min(0.0)


def factors(products: Sequence[Products], shape: Shape) -> Factors:
    """Those of one step.

    The products of uses that have the cotangent on the same side are added up. Those of the other
    side, as where a network's derivative or a decoder multiplies by the transpose, have vectors
    of other sizes: both are first brought to S and n A of the same trace, which leaves their
    product as it is.

    Args:
        products: of all uses of the block.
        shape: (G, a, b).
    """
    tables = all(p.left is None for p in products)
    sides = [[p for p in products if p.cotangent_is_left is side] for side in (True, False)]
    found = [_sums(those, shape, tables) for those in sides if those]
    if len(found) == 1:
        return found[0]
    one, other = (_balanced(sums) for sums in found)
    pairs = zip(one.tensors, other.tensors, strict=True)
    return Factors(*(a + b for a, b in pairs))


def _sums(products: Sequence[Products], shape: Shape, tables: bool) -> Factors:
    groups, a, b = shape
    like = products[0].right
    limit = MAX_FACTOR if b > 1 else MAX_VECTOR
    whole = 1 < a <= limit and not tables
    left = like.new_zeros(groups, a, a) if whole else like.new_zeros(groups, a)
    right = like.new_zeros(groups, b, b) if 1 < b <= MAX_FACTOR else like.new_zeros(groups, b)
    count = like.new_zeros(groups)
    for p in products:
        cotangent = p.right if p.left is None or not p.cotangent_is_left else p.left
        weights = cotangent.any(2).to(like) * p.weight
        count += weights.sum(1)
        _add(right, p.right, weights)
        if p.left is not None:
            _add(left, p.left, weights)
        elif p.index is not None:
            diagonal = left if left.ndim == 2 else left.diagonal(dim1=1, dim2=2)
            diagonal[0].index_add_(0, p.index, weights[0])
    return Factors(left, right, count)


def _add(moment: Tensor, vectors: Tensor, weights: Tensor) -> None:
    """Add the weighted second moment of G x n x a vectors, or its diagonal."""
    if moment.ndim == 3:
        moment.baddbmm_((vectors * weights[:, :, None]).mT, vectors)
    else:
        moment.add_((vectors.square() * weights[:, :, None]).sum(1))


def _balanced(sums: Factors) -> Factors:
    """The same with S and n A of the same trace."""
    left, right = (_trace(moment) for moment in (sums.left, sums.right))
    if min(left, right) <= 0:
        return sums
    ratio = (right / left) ** 0.5
    return Factors(sums.left * ratio, sums.right / ratio, sums.count)


def _trace(moment: Tensor) -> float:
    return float((moment if moment.ndim == 2 else moment.diagonal(dim1=1, dim2=2)).sum())
