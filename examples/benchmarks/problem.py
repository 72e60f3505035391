"""What a problem is: a seeded instance, a measure, and targets fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class NotApplicable(Exception):
    """A contender cannot run a problem; the text is the reason shown in the table."""


@dataclass(frozen=True)
class Rows:
    """The same loss as residual rows: ``loss == mean(module(*inputs) ** 2)``.

    ``module`` owns exactly the instance's parameters; ``inputs`` is a list, so that mini-batches
    can be exchanged in place. ``per_row``: row m depends on the m-th entry of every input alone,
    so a peer may take per-sample Jacobians by ``vmap``.
    """

    module: nn.Module
    inputs: list[Tensor]
    per_row: bool = True

    def residuals(self) -> Tensor:
        return self.module(*self.inputs).reshape(-1)


@dataclass(frozen=True)
class Instance:
    """One seeded problem: its parameters and the loss exactly as a user would write it."""

    params: list[nn.Parameter]
    loss: Callable[[], Tensor]
    rows: Rows | None = None
    error: Callable[[], float] | None = None
    # Mini-batches: `loss` is that of the current batch, `full_loss` that of all data.
    next_batch: Callable[[], None] | None = None
    full_loss: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Problem:
    """``targets`` from easy to hard in units of ``measure``; ``target`` is the headline one."""

    name: str
    family: str
    make: Callable[[int], Instance] = field(repr=False)
    targets: tuple[float, ...]
    target: float
    measure: str = "loss"
    sizes: frozenset[str] = frozenset({"full"})
    # Few parameters and an error that says whether the answer is right: watch every evaluation.
    watch_every_call: bool = False
    # Data and start are fixed, so that a second seed would repeat the first.
    seeded: bool = True

    def __post_init__(self) -> None:
        if self.target not in self.targets or list(self.targets) != sorted(self.targets)[::-1]:
            raise ValueError(f"{self.name}: targets must fall, and contain the headline target")

    def build(self, seed: int) -> Instance:
        """The instance of this seed, in double precision."""
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(seed)
        return self.make(seed)


def relative_error(prediction: Tensor, reference: Tensor) -> float:
    """||prediction - reference|| / ||reference|| in the Euclidean norm."""
    value = ((prediction - reference).norm() / reference.norm()).item()
    return value if math.isfinite(value) else math.inf
