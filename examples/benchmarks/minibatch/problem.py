"""A problem in mini-batches: a network, a loss of a batch, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MiniBatches:
    """One training run's problem.

    Attributes:
        net: the network, as it starts.
        loss: of a batch, with its graph; a batch is what `batches` yields.
        batches: without end, the same ones for the same seed.
        evaluation: a batch that stands for all the data.
        accuracy: on test data, where there is such a thing.
    """

    net: nn.Module
    loss: Callable[[Tensor], Tensor]
    batches: Iterator[Tensor]
    evaluation: Tensor
    accuracy: Callable[[], float] | None = None

    def evaluate(self) -> float:
        """The loss on `evaluation`, as training sees it: batch norm takes the batch's moments."""
        buffers = {name: value.clone() for name, value in self.net.named_buffers()}
        value = self.loss(self.evaluation).item()
        for name, buffer in self.net.named_buffers():
            buffer.copy_(buffers[name])
        return value


def shuffled(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Numbers of samples, an epoch in random order after another, without the incomplete batch."""
    random = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=random)
        yield from order[: count - count % size].split(size)


def seeds(seed: int) -> Iterator[Tensor]:
    """Batches that are drawn anew: each is the seed of its points."""
    number = 1_000_000 * (seed + 1)
    while True:
        yield torch.tensor(number)
        number += 1
