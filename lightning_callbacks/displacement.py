"""Where the last step of an optimizer began, for quantities along that step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton.linalg.flat import flatten


@dataclass(frozen=True)
class Displacement:
    r"""The last step of the optimizer.

    Attributes:
        vector: :math:`d = \theta_t - \theta_{t-1}`, P entries.
        learning_rate: with which it was taken; NaN where the parameter groups have several.
    """

    vector: Tensor
    learning_rate: float


class Previous:
    """Copies of the parameters from before the last step, one set for each optimizer.

    They take as much memory as the parameters, and one copy of them a step.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, Tensor, float]] = {}

    def keep(self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor], step: int) -> None:
        """The optimizer is about to take its step from here.

        Args:
            optimizer: whose step it is.
            params: that it trains, P entries.
            step: number of the step; a closure that is called several times within one counts
                the first time only.
        """
        key = id(_unwrapped(optimizer))
        known = self._kept.get(key)
        if known is not None and known[0] == step:
            return
        with torch.no_grad():
            here = flatten(param.detach() for param in params)
        rates = {float(group["lr"]) for group in optimizer.param_groups if "lr" in group}
        self._kept[key] = step, here, rates.pop() if len(rates) == 1 else math.nan

    def displacement(
        self, optimizers: Sequence[torch.optim.Optimizer], params: Sequence[Tensor]
    ) -> Displacement | None:
        """The last step of the only optimizer; None before it, and where there are several."""
        if len(optimizers) != 1:
            return None
        known = self._kept.get(id(_unwrapped(optimizers[0])))
        if known is None:
            return None
        here = flatten(param.detach() for param in params)
        return Displacement(here - known[1], known[2]) if here.shape == known[1].shape else None


def _unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, where Lightning has wrapped it."""
    return getattr(optimizer, "optimizer", optimizer)
