"""Where parameters enter a graph, and what a backward pass says there about their derivative.

A reader knows one operation. From the cotangent that a backward pass leaves at the operation's
output it makes n rows, each belonging to one sample; with the operand's n rows they are the
derivative in the parameter. One function and one line of `READERS` add an operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn.functional import unfold

from ..autodiff.nodes import saved
from .views import View, Views

Rows = Callable[[Tensor], Tensor]
MAX_ENTRIES = 50_000_000
"""Entries up to which rows of an embedding or a convolution are formed."""


@dataclass(frozen=True)
class Use:
    """One place where a parameter enters.

    Attributes:
        param: which one.
        output: what the operation returned.
        rows: makes n x a rows of the cotangent there, linearly.
        operand: n x b; None where the cotangent's rows, summed over those of one sample, are
            the derivative.
        cotangent_is_left: whether the derivative is a x b, rather than b x a.
        scale: a number that the derivative is multiplied by.
    """

    param: int
    output: GradientEdge
    rows: Rows
    operand: Tensor | None
    cotangent_is_left: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class Found:
    """What a walk over a graph finds.

    Attributes:
        uses: where parameters enter through an operation that is known.
        unread: the parameters that also enter through one that is not.
    """

    uses: list[Use]
    unread: set[int]


def find_uses(roots: Sequence[Node], params: Sequence[Tensor]) -> Found:
    """Every place behind `roots` where a parameter enters."""
    views = Views(params)
    uses: list[Use] = []
    unread: set[int] = set()
    seen, stack = set(roots), list(set(roots))
    for root in roots:
        own = views.at(root)
        if own is not None:
            unread.add(own.param)
    while stack:
        node = stack.pop()
        reader, known = None, False
        for argument, (parent, _) in enumerate(node.next_functions):
            if parent is None:
                continue
            view = views.at(parent)
            if view is None:
                if parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
                continue
            if not known:
                reader, known = READERS.get(node.name()), True
            use = None if reader is None or view.shape is None else reader(node, argument, view)
            if use is None:
                unread.add(view.param)
            else:
                uses.append(use if view.scale == 1 else replace(use, scale=view.scale))
    return Found([use for use in uses if use.param not in unread], unread)


def _matrix(cotangent: Tensor) -> Tensor:
    """All dimensions but the last one as rows."""
    return cotangent.reshape(-1, cotangent.shape[-1])


def _entries(cotangent: Tensor) -> Tensor:
    """Rows of one entry."""
    return cotangent[:, None]


def _columns(cotangent: Tensor) -> Tensor:
    """Samples are columns."""
    return _matrix(cotangent.mT)


def _matmul(node: Node, argument: int, view: View, first: str, second: str) -> Use | None:
    """A @ B, also of batches, with W or its transpose as one of the two."""
    if view.shape is None or math.prod(view.shape[:-2]) != 1:  # one matrix for each of a batch
        return None
    other = saved(node, first if argument == 1 else second)
    if other is None:
        return None
    output = GradientEdge(node, 0)
    if argument == 1:
        return Use(view.param, output, _matrix, _matrix(other), view.transposed)
    return Use(view.param, output, _columns, _columns(other), not view.transposed)


def _mm(node: Node, argument: int, view: View) -> Use | None:
    return _matmul(node, argument, view, "self", "mat2")


def _addmm(node: Node, argument: int, view: View) -> Use | None:
    """c + A @ B, with b as c or W as one of A and B."""
    if saved(node, "alpha", 1) != 1 or saved(node, "beta", 1) != 1:
        return None
    if argument == 0:
        return _broadcast(node, view)
    if node.name() == "BaddbmmBackward0":
        return _matmul(node, argument - 1, view, "batch1", "batch2")
    return _matmul(node, argument - 1, view, "mat1", "mat2")


def _mv(node: Node, argument: int, view: View) -> Use | None:
    """A @ w for a vector w."""
    operand = saved(node, "self")
    if argument != 1 or operand is None:
        return None
    return Use(view.param, GradientEdge(node, 0), _entries, operand)


def _add(node: Node, argument: int, view: View) -> Use | None:
    """x + b, with b broadcast over samples."""
    if argument == 1 and saved(node, "alpha", 1) != 1:
        return None
    return _broadcast(node, view)


def _subtract(node: Node, argument: int, view: View) -> Use | None:
    """x - b and b - x."""
    if saved(node, "alpha", 1) != 1:
        return None
    return _broadcast(node, view, None if argument == 0 else torch.tensor(-1.0))


def _multiply(node: Node, argument: int, view: View) -> Use | None:
    """x * w, with w broadcast over samples."""
    other = saved(node, "other" if argument == 0 else "self")
    return None if other is None else _broadcast(node, view, other)


def _broadcast(node: Node, view: View, factor: Tensor | None = None) -> Use | None:
    """A parameter that is added, or multiplied by `factor`, entry by entry."""
    if view.shape is None or (view.transposed and len(view.shape) > 1):
        return None
    shape, numel = view.shape, math.prod(view.shape)
    if factor is None and len(shape) == 1 and numel > 1:
        return Use(view.param, GradientEdge(node, 0), _matrix, None)

    def rows(cotangent: Tensor) -> Tensor:
        if factor is not None:
            cotangent = cotangent * factor.to(cotangent)
        aligned = (*(1,) * (cotangent.ndim - len(shape)), *shape)
        # Leading dimensions over which it is broadcast count samples; others are summed over.
        lead = 0
        while lead < cotangent.ndim and aligned[lead] == 1:
            lead += 1
        n = math.prod(cotangent.shape[:lead])
        over = [d for d in range(lead, len(aligned)) if aligned[d] == 1]
        if over:
            cotangent = cotangent.sum(over)
        return cotangent.reshape(n, numel)

    return Use(view.param, GradientEdge(node, 0), rows, None)


def _layer_norm(node: Node, argument: int, view: View) -> Use | None:
    """w x + b of the normalised x."""
    if argument == 0 or view.transposed or view.shape is None:
        return None
    if argument == 2:
        return _broadcast(node, view)
    x, mean, rstd = (saved(node, name) for name in ("input", "result1", "result2"))
    return _broadcast(node, view, (x - mean) * rstd)


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

    return Use(view.param, GradientEdge(node, 0), _matrix, chosen, False)


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


READERS: dict[str, Callable[[Node, int, View], Use | None]] = {
    "AddBackward0": _add,
    "AddmmBackward0": _addmm,
    "BaddbmmBackward0": _addmm,
    "BmmBackward0": _mm,
    "ConvolutionBackward0": _convolution,
    "EmbeddingBackward0": _embedding,
    "MmBackward0": _mm,
    "MulBackward0": _multiply,
    "MvBackward0": _mv,
    "NativeLayerNormBackward0": _layer_norm,
    "SubBackward0": _subtract,
}
"""Operations that take a parameter, and how their rows are read."""
