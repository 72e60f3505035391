r"""The Gauss-Newton matrix as a block for each layer, a Kronecker product in its eigenbasis.

It is read off the graph of any loss whose terms are known: no modules, no hooks, no list of layer
types. What has no outer products keeps the diagonal, which is exact in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..graph.blocks import Block
from ..graph.outer_products import Drawn, draw
from ..graph.random_root import output_roots
from ..graph.residuals import read_residuals
from ..linalg.flat import flatten, unflatten
from ..linalg.kronecker import KroneckerDiagonal
from ..linalg.operators import LinearOperator, Product, symmetric
from .base import AtDamping, Preconditioner
from .kronecker_factors import Mean
from .kronecker_moments import Moments, updated

KEY = "kronecker"
"""Under which the state of a parameter holds the moments of the block that it is the weight of."""


@dataclass(frozen=True)
class KroneckerFactored:
    """A block-diagonal matrix, P x P.

    Attributes:
        blocks: the blocks of the parameters, each with its running means.
        like: the parameters.
    """

    blocks: Sequence[tuple[Block, Moments]]
    like: Sequence[Tensor]

    def matvec(self, v: Tensor) -> Tensor:
        """K v; zero for parameters without a block."""
        return self._each(v, lambda K, X, _: K.matvec(X), 0.0)

    def solve(self, v: Tensor, damping: float, decay: Tensor | None = None) -> Tensor:
        """(K + damping I)^{-1} v.

        Args:
            v: P entries.
            damping: a positive number.
            decay: P entries of which each block adds the mean to its damping.
        """
        if decay is None:
            return self._each(v, lambda K, X, _: K.solve(X, damping), 1 / damping)
        weights = unflatten(decay, self.like)

        def solve(K: KroneckerDiagonal, X: Tensor, block: Block) -> Tensor:
            return K.solve(X, damping + block.joined(weights).mean())

        return self._each(v, solve, 1 / (damping + decay))

    def operator(self) -> LinearOperator:
        """K."""
        return self._symmetric(self.matvec)

    def inverse(self, damping: float) -> LinearOperator:
        """(K + damping I)^{-1}; without damping that may be singular, and rounding replaces it."""
        damping = damping or torch.finfo(self.like[0].dtype).eps * self.trace() or 1.0
        return self._symmetric(lambda v: self.solve(v, damping))

    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return sum(moments.matrix.trace() for _, moments in self.blocks)

    def updated(self, drawn: Drawn, mean: Mean = lambda tensor: tensor) -> KroneckerFactored:
        """With one more step in the means.

        Args:
            drawn: a random combination of its outputs.
            mean: of a tensor over processes.
        """
        before = dict(self.blocks)
        found = []
        for block in drawn.blocks:
            moments = updated(before.get(block), drawn, block, mean)
            if moments is not None:
                found.append((block, moments))
        return KroneckerFactored(found, self.like)

    @classmethod
    def kept(
        cls, state: Mapping[Tensor, dict[str, Any]], params: Sequence[Tensor]
    ) -> KroneckerFactored:
        """What `keep` has left; without blocks where other parameters are trained since."""
        found = []
        for param in params:
            held = state.get(param, {}).get(KEY)
            if held is None:
                continue
            block = Block(**held["block"] | {"shape": tuple(held["block"]["shape"])})
            if held["params"] != len(params) or params[block.weight] is not param:
                return cls([], params)
            found.append((block, Moments.from_numbers(held["moments"])))
        return cls(found, params)

    def keep(self, state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        """Leave the means in the state of the parameters."""
        for param in self.like:
            state[param].pop(KEY, None)
        for block, moments in self.blocks:
            held = vars(block) | {"shape": list(block.shape)}
            held = {name: value for name, value in held.items() if value is not None}
            state[self.like[block.weight]][KEY] = {
                "params": len(self.like),
                "block": held,
                "moments": moments.numbers(),
            }

    def _each(
        self,
        v: Tensor,
        apply: Callable[[KroneckerDiagonal, Tensor, Block], Tensor],
        rest: float | Tensor,
    ) -> Tensor:
        pieces = unflatten(v, self.like)
        found = [piece.reshape(-1) for piece in unflatten(v * rest, self.like)]
        for block, moments in self.blocks:
            results = block.parted(apply(moments.matrix, block.joined(pieces), block))
            for i, result in zip(block.members, results, strict=True):
                found[i] = result
        return flatten(found)

    def _symmetric(self, product: Product) -> LinearOperator:
        like = self.like[0]
        size = sum(param.numel() for param in self.like)
        return symmetric(size, product, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Kronecker(Preconditioner):
    """The damped inverse of Kronecker factors of the loss at hand, with nothing of earlier steps.

    For losses of many rows and parameters: it takes a backward pass, and an eigendecomposition for
    each layer.

    Args:
        seed: of the random combination of outputs.
    """

    seed: int = 0

    def __call__(self, loss: Tensor, params: Sequence[Tensor]) -> AtDamping | None:
        """None where the loss holds what is not known."""
        found = self.factored(loss, params)
        return None if found is None else found.inverse

    def factored(self, loss: Tensor, params: Sequence[Tensor]) -> KroneckerFactored | None:
        """The matrix itself."""
        terms = read_residuals(loss).of_outputs
        roots = output_roots(terms)
        if roots is None:
            return None
        return KroneckerFactored([], params).updated(draw(terms, roots, params, self.seed))
