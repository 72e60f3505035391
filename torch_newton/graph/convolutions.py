"""Readers of convolutions, whose rows take more memory than their operands."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn.functional import unfold

from ..autodiff.nodes import saved
from .patches import Patches
from .use import MAX_ENTRIES, Pairs, Reader, Rows, Use
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


def _convolution_in_pairs(node: Node, argument: int, view: View) -> Use | None:
    """One- and two-dimensional convolutions of any size, by patches, one product for each."""
    x, shape = saved(node, "input"), view.shape
    if argument != 1 or view.transposed or shape is None or x is None or x.ndim not in (3, 4):
        return _convolution(node, argument, view)
    pairs = _pairs(node, x, shape)
    rows, left = _by_patches(node, x, shape), not saved(node, "transposed")
    return Use(view.param, GradientEdge(node, 0), rows, None, left, pairs=pairs)


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


def _pairs(node: Node, x: Tensor, shape: tuple[int, ...]) -> Pairs:
    """For each place of each image its patch, and what the other side has there.

    A transposed convolution has the patches in the cotangent. Groups are matrices of their own.
    """
    groups, names = int(saved(node, "groups")), ("dilation", "padding", "stride")
    options = [tuple(shape[2:]), *(tuple(saved(node, name)) for name in names)]
    if x.ndim == 3:  # one dimension as two, of which the first has length 1
        options = [(n, *rest) for n, rest in zip((1, 1, 0, 1), options, strict=True)]
    kernel, dilation, padding, stride = ((a, b) for a, b in options)
    transposed = bool(saved(node, "transposed"))
    rows, columns = (1, *x.shape[2:])[-2:]
    places = (rows, columns) if transposed else None
    patches = Patches(kernel, dilation, padding, stride, groups, places)

    def sides(cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """The images that patches are taken of, and what stands at their places."""
        inside, outside = (cotangent, x) if transposed else (x, cotangent)
        return inside if inside.ndim == 4 else inside[:, :, None], outside.flatten(2)

    def vectors(cotangent: Tensor, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
        inside, outside = sides(cotangent)
        return patches.at_places(outside, chosen), patches.of(inside, chosen)

    size = math.prod(shape) // shape[0]
    return Pairs((groups, shape[0] // groups, size), vectors, lambda c: patches.number(sides(c)[0]))


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

CONVOLUTIONS_IN_PAIRS: dict[str, Reader] = {"ConvolutionBackward0": _convolution_in_pairs}
"""The same for those who want the vectors of each place rather than sums over a sample."""
