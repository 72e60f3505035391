r"""The curvature of one block, averaged over steps: its factors, their eigenbases, and D.

In the eigenbases U and V of the two factors the sums
:math:`D = \sum_i (U^T l_i)^2 (V^T r_i)^{2\,T}`, of squares entry by entry, take the place of the
products of eigenvalues (George et al. 2018): they do not suppose that l and r are independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..graph.blocks import Block
from ..graph.outer_products import Drawn, Products
from ..linalg.kronecker import KroneckerDiagonal, eigenbasis
from .kronecker_factors import Factors, Mean, factors

MEMORY = 0.95
"""Weight of what was before in a running mean; at first all steps count alike (Martens and Grosse
2015, section 5). A memory of 20 updates averages out a mini-batch's noise, and of older ones the
network has moved away."""

PERIOD = 5
"""Updates between two steps of orthogonal iteration on the bases. Of the running means 5 updates
are a quarter, so that the bases lag behind by less than the means themselves do."""


@dataclass(frozen=True)
class Moments:
    """The running means of one block.

    Attributes:
        diagonal: D, G x a x b.
        updates: steps that the means are over.
        corrections: of these, how many D is over, besides the product of eigenvalues.
        factors: S and A; None where only D is estimated.
        left_basis: U, G x a x a; None where S is kept as a diagonal.
        right_basis: V, G x b x b; None where A is.
    """

    diagonal: Tensor
    updates: int = 1
    corrections: int = 0
    factors: Factors | None = None
    left_basis: Tensor | None = None
    right_basis: Tensor | None = None

    @property
    def matrix(self) -> KroneckerDiagonal:
        """The curvature of the block."""
        return KroneckerDiagonal(self.left_basis, self.right_basis, self.diagonal)

    def numbers(self) -> dict[str, Any]:
        """As tensors and numbers, the form in which a checkpoint holds it."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return values if self.factors is None else values | {"factors": vars(self.factors)}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Moments:
        """The inverse of `numbers`."""
        held = numbers.get("factors")
        return cls(**{**numbers, "factors": None if held is None else Factors(**held)})


def updated(
    before: Moments | None, drawn: Drawn, block: Block, mean: Mean = lambda tensor: tensor
) -> Moments | None:
    """The means with one more step; those before where the loss does not depend on the block.

    Args:
        before: those of the steps before; None at first.
        drawn: a random combination of the outputs of this step.
        block: which parameters.
        mean: of a tensor over processes.
    """
    if not block.factored:
        gradient = drawn.gradients.get(block.weight)
        if gradient is None:
            return before
        return _with_squares(before, mean(gradient.square().reshape(1, -1, 1)))
    products = list(drawn.of(block))
    if not products:
        return before
    new = factors(products, block.joined_shape).mean(mean)
    if not new.is_finite():
        return before
    moments = _with_factors(before, new)
    return _with_corrections(moments, mean(_squares(moments, products)))


def _with_squares(before: Moments | None, squares: Tensor) -> Moments:
    r"""The diagonal alone: the mean of the squares of :math:`J^T s` is that of J^T Q J."""
    if before is None or before.diagonal.shape != squares.shape:
        return Moments(squares)
    step = before.updates + 1
    return Moments(torch.lerp(squares, before.diagonal, _keep(step)), step)


def _with_factors(before: Moments | None, new: Factors) -> Moments:
    """The factors of all steps so far, with new bases where these are due; D as before."""
    if before is None or before.factors is None or not new.is_like(before.factors):
        return _renewed(new, 1)
    step = before.updates + 1
    mean = new.towards(before.factors, _keep(step))
    if step & (step - 1) == 0:  # a power of two: at first the network changes fast
        return _renewed(mean, step)
    U, V = before.left_basis, before.right_basis
    if step % PERIOD == 0:  # by little, so that D stays
        U = None if U is None else eigenbasis(mean.left, U)
        V = None if V is None else eigenbasis(mean.right, V)
    return replace(before, updates=step, factors=mean, left_basis=U, right_basis=V)


def _renewed(mean: Factors, step: int) -> Moments:
    """With eigenvectors as bases, and the products of eigenvalues as D."""
    U = eigenbasis(mean.left, None) if mean.left.ndim == 3 else None
    V = eigenbasis(mean.right, None) if mean.right.ndim == 3 else None
    return Moments(mean.diagonal_in(U, V), step, 0, mean, U, V)


def _squares(moments: Moments, products: Sequence[Products]) -> Tensor:
    """D of one step alone."""
    squares = torch.zeros_like(moments.diagonal)
    U, V = moments.left_basis, moments.right_basis
    for p in products:
        right = (p.right if V is None else p.right @ V).square() * p.weight
        if p.left is not None:
            left = p.left if U is None else p.left @ U
            squares.baddbmm_(left.square().mT, right)
        elif p.index is not None:
            table = torch.zeros_like(squares[0]).index_add_(0, p.index, right[0])
            squares[0] += table if U is None else U[0].square().T @ table
    return squares


def _with_corrections(moments: Moments, squares: Tensor) -> Moments:
    """With the squares of one more step in D, whose first value counts as one, too."""
    number = moments.corrections + 1
    D = torch.lerp(squares, moments.diagonal, _keep(number + 1))
    return replace(moments, diagonal=D, corrections=number)


def _keep(step: int) -> float:
    """The weight of what was before at a mean's n-th step."""
    return min(1 - 1 / step, MEMORY)
