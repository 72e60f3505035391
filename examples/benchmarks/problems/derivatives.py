"""Derivatives of a field, written once for two engines.

The closures that are timed use nested ``autograd.grad``, as PINN users do. Peers that take
per-sample Jacobians by ``vmap`` cannot differentiate through that, and get forward mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp

Field = Callable[[Tensor], Tensor]


class Derivatives(Protocol):
    """u at the points x, and its partial derivative along the given axes; columns (M, 1)."""

    u: Tensor
    x: Tensor

    def d(self, *axes: int) -> Tensor: ...


class Nested:
    """Reverse mode: d_i u = grad(sum u, x)[:, i], differentiated again for each further axis."""

    def __init__(self, field: Field, x: Tensor) -> None:
        self.x = x.detach().requires_grad_(True)
        self.u = field(self.x)
        self._gradients: dict[tuple[int, ...], Tensor] = {}

    def d(self, *axes: int) -> Tensor:
        if not axes:
            return self.u
        inner = axes[:-1]
        if inner not in self._gradients:
            (gradient,) = torch.autograd.grad(self.d(*inner).sum(), self.x, create_graph=True)
            self._gradients[inner] = gradient
        return self._gradients[inner][..., axes[-1:]]


class Forward:
    """Forward mode: d_i u = jvp(u, e_i), nested for each further axis."""

    def __init__(self, field: Field, x: Tensor) -> None:
        self.field, self.x = field, x
        self.u = field(x)

    def d(self, *axes: int) -> Tensor:
        def derivative(function: Field, axis: int) -> Field:
            direction = torch.eye(self.x.shape[-1], dtype=self.x.dtype)[axis]
            return lambda x: jvp(function, (x,), (direction.expand_as(x),))[1]

        function = self.field
        for axis in axes:
            function = derivative(function, axis)
        return function(self.x)
