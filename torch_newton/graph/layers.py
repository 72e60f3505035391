"""Backward passes of one term, and what they leave at an operation, gathered by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..linalg.factor import Factor
from ..linalg.indexed_factor import IndexedFactor
from .loss_curvature import OutputHessianRoot
from .placement import Blocks, Placement, fits_blocks, placement
from .terms import Term
from .use import Use

Cotangents = dict[GradientEdge, Tensor | None]
"""What a backward pass leaves at each operation's output; None where it does not come."""


@dataclass(frozen=True)
class Layer:
    """The cotangent at an operation: the factor that, say, a weight and its bias share.

    Attributes:
        placement: which sample each of its rows belongs to.
        left: (M C) x K x a, for each output of each sample.
        columns: C.
    """

    placement: Placement
    left: Tensor
    columns: int

    def factor(self, use: Use) -> Factor | None:
        """The rows of one parameter; None where those of its operand are of another number."""
        if use.index is not None:
            return self._indexed(use, use.index)
        if use.operand is None:
            return Factor(self.left if use.scale == 1 else self.left * use.scale, None)
        # Of a complex product x w the backward pass multiplies by the conjugate of x.
        right = self._gathered(use.operand.to(self.left.dtype).conj().resolve_conj())
        if right is None:
            return None
        if use.scale != 1:
            right = right * use.scale
        return Factor(self.left, right) if use.cotangent_is_left else Factor(right, self.left)

    def _indexed(self, use: Use, index: Tensor) -> Factor | None:
        gathered = self._gathered(index[:, None])
        if gathered is None:
            return None
        left = self.left if use.scale == 1 else self.left * use.scale
        return IndexedFactor.of(gathered[:, :, 0], left, use.number)

    def _gathered(self, operand: Tensor) -> Tensor | None:
        """n rows by sample, for each output of each sample; None where n is another number."""
        rows = self.left.shape[0] * self.left.shape[1]
        if isinstance(self.placement, Blocks) and len(operand) * self.columns != rows:
            return None
        gathered = self.placement.gather(operand)
        return gathered.repeat_interleave(self.columns, 0) if self.columns > 1 else gathered


@dataclass(frozen=True)
class Passes:
    """Backward passes of one term, with random weights on its samples.

    Attributes:
        term: the term.
        root: the square root of its Q.
        edges: the outputs of operations at which cotangents are kept.
        search: whether the sample of each row is always found by two further backward passes,
            rather than only where it cannot be guessed.
        across: whether samples lie along the dimensions of z but the first, M of them, and the
            first one counts their C outputs.
    """

    term: Term
    root: OutputHessianRoot
    edges: Sequence[GradientEdge]
    search: bool
    across: bool = False

    def reaches(self, use: Use) -> bool:
        """Whether the term depends on what an operation returned."""
        return self._outputs[0][use.output] is not None

    def mixes(self, use: Use) -> bool:
        """Whether rows of an operation belong to several samples."""
        return self._searching[0][use.output] is not None and self._searched(use) is None

    def layer(self, use: Use) -> Layer | None:
        """The cotangent that a use makes its rows of; None where they mix samples."""
        rows = [use.rows(found) for p in self._outputs if (found := p[use.output]) is not None]
        if not self.search and fits_blocks(rows[0], self.root.rows):
            place: Placement | None = Blocks(self.root.rows)
        else:
            place = self._searched(use)
        if place is None:
            return None
        gathered = [place.gather(r) / self._rho[:, :, None] for r in rows]
        left = gathered[0] if len(rows) == 1 else torch.stack(gathered, 1).flatten(0, 1)
        return Layer(place, left, self.root.columns)

    @cached_property
    def _rho(self) -> Tensor:
        return _random_weights(self.root.rows, self.term.like.dtype, self.term.like.device)

    @cached_property
    def _outputs(self) -> list[Cotangents]:
        """One backward pass for each of the C outputs of a sample."""
        return [self._pass(self._rho * self.root.row(c)) for c in range(self.root.columns)]

    @cached_property
    def _searching(self) -> tuple[Cotangents, Cotangents]:
        """A random mixture of the outputs; and the same with sample m multiplied by m + 1."""
        generator = torch.Generator().manual_seed(2)
        mixture = torch.rand(self.root.columns, generator=generator, dtype=torch.float64) + 0.5
        weights = self._rho * mixture.to(self._rho)
        numbers = torch.arange(1, self.root.rows + 1).to(self._rho)
        return self._pass(weights), self._pass(numbers[:, None] * weights)

    def _searched(self, use: Use) -> Placement | None:
        plain, numbered = (found[use.output] for found in self._searching)
        if plain is None or numbered is None:
            return None
        return placement(use.rows(plain), use.rows(numbered), self.root.rows)

    def _pass(self, weights: Tensor) -> Cotangents:
        found = torch.autograd.grad(
            [self.term.z],
            self.edges,
            [(weights.T if self.across else weights).reshape(self.term.like.shape)],
            retain_graph=True,
            allow_unused=True,
        )
        return dict(zip(self.edges, found, strict=True))


@lru_cache(maxsize=16)
def _random_weights(samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One random number between 1/2 and 3/2 for each sample, M x 1, the same at each call.

    They tell samples apart, so that mixed rows fail the check, and lose no digit in a division.
    """
    generator = torch.Generator().manual_seed(1)
    rho = torch.rand(samples, 1, generator=generator, dtype=torch.float64) + 0.5
    return rho.to(device, dtype)
