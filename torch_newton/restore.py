"""What a step moves, and must put back exactly when it is refused or interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .flat import unflatten


@dataclass(frozen=True)
class RandomState:
    """The states of PyTorch's generators on the CPU and on the parameters' device."""

    cpu: Tensor
    cuda: dict[torch.device, Tensor]

    @classmethod
    def now(cls, params: Sequence[Tensor]) -> RandomState:
        """Read the generators that a closure over `params` may draw from."""
        devices = {param.device for param in params if param.device.type == "cuda"}
        return cls(
            torch.get_rng_state(),
            {device: torch.cuda.get_rng_state(device) for device in devices},
        )

    def restore(self) -> None:
        """Set the generators back."""
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)


@dataclass(frozen=True)
class Point:
    """Where the parameters stood, bit for bit."""

    params: Sequence[Tensor]
    values: Sequence[Tensor]

    @classmethod
    def now(cls, params: Sequence[Tensor]) -> Point:
        """Remember the parameters' present values."""
        return cls(list(params), [param.detach().clone() for param in params])

    def move(self, direction: Tensor) -> None:
        """Put the parameters at this point plus `direction`.

        Written through ``.data``: the graph of the loss, which saw the parameters at this point,
        stays valid for further products once they are back.
        """
        pieces = unflatten(direction, self.values)
        for param, value, piece in zip(self.params, self.values, pieces, strict=True):
            param.data.copy_(value + piece)

    def restore(self) -> None:
        """Put the parameters back."""
        for param, value in zip(self.params, self.values, strict=True):
            param.data.copy_(value)

    def leave(self) -> None:
        """Tell autograd that the parameters have moved, as any in-place update does.

        A graph that somebody still holds over the old values then raises instead of giving
        wrong derivatives.
        """
        torch.autograd.graph.increment_version(list(self.params))
