"""Which sample each row of an operand belongs to, and rows gathered by sample.

Rows need not be aligned with those of z. A loss may slice its rows out of a pass over more
points, and a sample may have several rows: positions of a sequence. Where their order is not the
obvious one, it is found by a backward pass in which sample m has weight m + 1: divided by the
pass without these weights it names the sample, and where the quotient is no number, samples are
mixed and the graph cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Sample after sample, each with the same number of rows."""

    samples: int

    def gather(self, rows: Tensor) -> Tensor:
        """n x a rows as samples x K x a."""
        return rows.reshape(self.samples, -1, rows.shape[-1])


@dataclass(frozen=True)
class Scattered:
    """Rows in any order, with any number of them for a sample.

    Attributes:
        samples: M.
        order: the numbers of the rows that are used, sample after sample.
        sample: of each of these, which sample it belongs to.
        slot: of each of these, which of its sample's rows it is.
        uses: K, the largest number of rows of a sample.
    """

    samples: int
    order: Tensor
    sample: Tensor
    slot: Tensor
    uses: int

    def gather(self, rows: Tensor) -> Tensor:
        """n x a rows as samples x K x a, filled up with zeros."""
        if self.uses == 1 and len(self.order) == self.samples:
            return rows[self.order][:, None]
        result = rows.new_zeros(self.samples, self.uses, rows.shape[-1])
        result[self.sample, self.slot] = rows[self.order]
        return result


Placement = Blocks | Scattered


def fits_blocks(rows: Tensor, samples: int) -> bool:
    """Whether n x a rows can be sample after sample: a sample without any is a sign against."""
    if rows.shape[0] == samples:
        return True
    if rows.shape[0] == 0 or rows.shape[0] % samples:
        return False
    return bool(rows.reshape(samples, -1).any(1).all())


def placement(plain: Tensor, numbered: Tensor, samples: int) -> Placement | None:
    """Place n x a rows, given those of a pass with weight m + 1 on sample m; None if mixed."""
    if plain.is_complex():
        plain, numbered = (torch.view_as_real(rows).flatten(1) for rows in (plain, numbered))
    square = plain.square().sum(1)
    used = square > 0
    ratio = (plain * numbered).sum(1) / torch.where(used, square, torch.ones_like(square))
    sample = ratio.round()
    misfit = (numbered - sample[:, None] * plain).abs().amax(1)
    # Rounding, with the margin of `check.explains`, relative to the largest weight.
    tolerance = torch.finfo(plain.dtype).eps ** 0.6 * samples * plain.abs().amax(1)
    in_range = (sample >= 1) & (sample <= samples)
    if not bool((~used | ((misfit <= tolerance) & in_range)).all()):
        return None
    place = torch.where(used, sample.long() - 1, samples)
    counts = torch.bincount(place, minlength=samples + 1)[:samples]
    order = torch.argsort(place, stable=True)[: int(counts.sum())]
    sample = place[order]
    first = torch.cumsum(counts, 0) - counts
    slot = torch.arange(len(order), device=place.device) - first[sample]
    return Scattered(samples, order, sample, slot, max(1, int(counts.max())))
