"""Derivatives of a field at points, by nested `torch.autograd.grad` or layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .problem import Field


class At:
    """A field u at the points x, M x d, and its partial derivatives, M x 1.

    >>> at = At(lambda x: x[:, 0:1] ** 3, torch.tensor([[2.0]]))
    >>> at.u.item(), at.d(0).item(), at.d(0, 0).item()
    (8.0, 12.0, 12.0)
    """

    def __init__(self, field: Field, x: Tensor) -> None:
        self.x = x if x.requires_grad else x.detach().clone().requires_grad_()
        self.u = field(self.x)
        self._gradients: dict[tuple[int, ...], Tensor] = {}

    def d(self, *axes: int) -> Tensor:
        """The derivative along these axes, one after another."""
        if not axes:
            return self.u
        inner, last = axes[:-1], axes[-1]
        if inner not in self._gradients:
            (self._gradients[inner],) = torch.autograd.grad(
                self.d(*inner).sum(), self.x, create_graph=True
            )
        return self._gradients[inner][:, last : last + 1]

    def laplacian(self, *axes: int) -> Tensor:
        """The sum of the second derivatives along these axes; along all where none is given."""
        return torch.stack([self.d(i, i) for i in axes or range(self.x.shape[1])]).sum(0)


def components(field: Field, x: Tensor) -> list[At]:
    """The C components of a field, M x C, with their derivatives, from one evaluation.

    >>> u, v = components(lambda x: torch.cat([x**2, x**3], 1), torch.tensor([[2.0]]))
    >>> u.d(0).item(), v.d(0).item()
    (4.0, 12.0)
    """
    x = x.detach().clone().requires_grad_()
    return [At(lambda _, part=part: part, x) for part in field(x).split(1, dim=1)]


def forward_laplacian(net: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """U and its Laplacian, M x 1 each, of linear layers and tanh, in one pass.

    Value, gradient (M x d x n) and Laplacian go through the layers together (Li et al. 2023):
    linear layers map each, and of tanh, with s = 1 - tanh^2, they are tanh, s g and
    s l - 2 tanh s sum_i g_i^2. Nested `grad` would take d backward passes.

    Samples come first in every tensor, as in any batch: RegNewton then finds them at once.
    """
    points, inputs = x.shape
    gradient = torch.eye(inputs, dtype=x.dtype).expand(points, inputs, inputs)
    value, laplacian = x, torch.zeros_like(x)
    for layer in net:
        if isinstance(layer, nn.Linear):
            value = layer(value)
            gradient, laplacian = gradient @ layer.weight.T, laplacian @ layer.weight.T
        else:
            value = torch.tanh(value)
            slope = 1 - value**2
            laplacian = slope * laplacian - 2 * value * slope * gradient.square().sum(1)
            gradient = slope[:, None] * gradient
    return value, laplacian
