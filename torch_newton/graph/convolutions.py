"""Readers of convolutions and embeddings, whose rows take more memory than their operands."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn.functional import unfold

from ..autodiff.nodes import saved
from .use import Reader, Use, matrix
from .views import View

MAX_ENTRIES = 50_000_000
"""Entries up to which such rows are formed: 400 MB in double precision, as many as
`preconditioners.function_space` allows a whole Jacobian."""


def _embedding(node: Node, argument: int, view: View) -> Use | None:
    """Rows of W by number."""
    indices, size = saved(node, "indices"), saved(node, "weight_sym_argsize_0")
    unusual = saved(node, "scale_grad_by_freq", False) or view.transposed or view.shape is None
    if unusual or indices is None or size is None or indices.numel() * size > MAX_ENTRIES:
        return None
    padding = saved(node, "padding_idx", -1)
    chosen = indices.reshape(-1, 1) == torch.arange(int(size), device=indices.device)
    if 0 <= padding < int(size):  # negative, or wrapped around, where there is none
        chosen[:, padding] = False

    return Use(view.param, GradientEdge(node, 0), matrix, chosen, False)


def _convolution(node: Node, argument: int, view: View) -> Use | None:
    """One- and two-dimensional convolutions; a row is the derivative of one image."""
    x, shape = saved(node, "input"), view.shape
    if saved(node, "transposed") or view.transposed or shape is None:
        return None
    if argument == 2:
        return Use(view.param, GradientEdge(node, 0), lambda c: c.flatten(2).sum(2), None)
    if argument != 1 or x is None or x.ndim not in (3, 4):
        return None
    if x.shape[0] * math.prod(shape) > MAX_ENTRIES:
        return None
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

    return Use(view.param, GradientEdge(node, 0), rows, None)


CONVOLUTIONS: dict[str, Reader] = {
    "ConvolutionBackward0": _convolution,
    "EmbeddingBackward0": _embedding,
}
"""Operations that use each weight at many places of one sample."""
