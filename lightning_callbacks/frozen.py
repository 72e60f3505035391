"""Where a module stood at a point of its training, to be gone back to for a moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Frozen:
    """The tensors of a module as they were when this was made.

    All of what it holds is copied at once but the trained parameters, which an evaluation of the
    loss leaves alone: these are copied by `leave`, so that no copy of them is held besides the one
    that restores the training, while the module still stands there.

    Args:
        module: with its parameters and buffers.
        params: those of its parameters that are trained.

    Attributes:
        within_module: whether the module holds all of these, so that what restores the module
            restores them.
    """

    def __init__(self, module: Any, params: Sequence[Tensor]) -> None:
        known = {id(param) for param in params}
        tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
        others = [t for key, t in tensors.items() if key not in known]
        self.within_module: bool = known <= tensors.keys()
        self._params = list(params)
        self._others = [(t, t.detach().clone()) for t in others if t.layout is torch.strided]
        self._values: list[Tensor] = []

    def leave(self) -> None:
        """Copy the trained parameters, before the module is put back to where training is."""
        self._values = [param.detach().clone() for param in self._params]

    def put(self) -> None:
        """Move the module there, and drop the copy of the trained parameters.

        Through .data, which leaves the version counter alone: a graph made before still holds.
        """
        for param, value in zip(self._params, self._values, strict=True):
            param.data.copy_(value)
        self._values = []
        for tensor, value in self._others:
            tensor.data.copy_(value)
