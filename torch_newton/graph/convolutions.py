"""Readers of convolutions, whose rows take more memory than their operands."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn.functional import unfold

from ..autodiff.nodes import saved
from .use import MAX_ENTRIES, Reader, Rows, Use
from .views import View


def _convolution(node: Node, argument: int, view: View) -> Use | None:
    """Convolutions of every kind; a row is the derivative of one image."""
    x, shape = saved(node, "input"), view.shape
    if view.transposed or shape is None:
        return None
    if argument == 2:
        return Use(view.param, GradientEdge(node, 0), lambda c: c.flatten(2).sum(2), None)
    if argument != 1 or x is None or x.shape[0] * math.prod(shape) > MAX_ENTRIES:
        return None
    plain = not saved(node, "transposed") and x.ndim in (3, 4)
    rows = _by_patches(node, x, shape) if plain else _by_image(node, x, shape)
    return Use(view.param, GradientEdge(node, 0), rows, None)


def _by_patches(node: Node, x: Tensor, shape: tuple[int, ...]) -> Rows:
    """One- and two-dimensional convolutions, as matrix products with patches of the images."""
    options = [list(saved(node, name)) for name in ("dilation", "padding", "stride")]
    groups = int(saved(node, "groups"))
    if x.ndim == 3:
        x = x[:, :, None]
        shape, neutral = (*shape[:2], 1, *shape[2:]), (1, 0, 1)
        options = [[first, *rest] for first, rest in zip(neutral, options, strict=True)]
    (height, width), (dilation, padding, stride) = shape[2:], [(a, b) for a, b in options]

    def rows(cotangent: Tensor) -> Tensor:
        patches = unfold(x, (height, width), dilation, padding, stride)
        n, _, positions = patches.shape
        by_group = patches.reshape(n, groups, -1, positions)
        outputs = cotangent.reshape(n, groups, -1, positions)
        return (outputs @ by_group.mT).reshape(n, -1)

    return rows


def _by_image(node: Node, x: Tensor, shape: tuple[int, ...]) -> Rows:
    """Any other, transposed or in three dimensions, by PyTorch's own derivative of each image."""
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    options = [saved(node, name) for name in names]
    weight = x.new_zeros(shape)

    def row(image: Tensor, cotangent: Tensor) -> Tensor:
        found = torch.ops.aten.convolution_backward(
            cotangent[None], image[None], weight, None, *options, (False, True, False)
        )
        gradient: Tensor = found[1]
        return gradient.reshape(-1)

    def rows(cotangent: Tensor) -> Tensor:
        found: Tensor = torch.vmap(row)(x, cotangent)
        return found

    return rows


CONVOLUTIONS: dict[str, Reader] = {"ConvolutionBackward0": _convolution}
"""Operations that use each weight at many places of one sample."""
