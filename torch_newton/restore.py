"""What a step moves, and must put back exactly when it is refused or interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

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


class Buffers:
    """The buffers of every module that runs inside the block, as they were before it did.

    So a batch normalisation counts each batch once, however often a step evaluates it.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> Buffers:
        self._hook = register_module_forward_pre_hook(self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hook.remove()

    def _note(self, module: nn.Module, args: Any) -> None:
        for name, buffer in module.named_buffers(recurse=False):
            if (module, name) not in self._before:
                self._before[module, name] = buffer, buffer.detach().clone()

    def restore(self) -> None:
        """Put the buffers back, the same tensors with the same values."""
        for (module, name), (buffer, value) in self._before.items():
            buffer.data.copy_(value)
            setattr(module, name, buffer)
