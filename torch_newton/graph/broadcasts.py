"""Readers of what is added or multiplied entry by entry: biases, scales and slopes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import saved
from .use import Reader, Use, matrix
from .views import View


def _add(node: Node, argument: int, view: View) -> Use | None:
    """x + b, with b broadcast over samples."""
    if argument == 1 and saved(node, "alpha", 1) != 1:
        return None
    return broadcast(node, view)


def _subtract(node: Node, argument: int, view: View) -> Use | None:
    """x - b and b - x."""
    if saved(node, "alpha", 1) != 1:
        return None
    return broadcast(node, view, None if argument == 0 else torch.tensor(-1.0))


def _multiply(node: Node, argument: int, view: View) -> Use | None:
    """x * w, with w broadcast over samples."""
    other = saved(node, "other" if argument == 0 else "self")
    return None if other is None else broadcast(node, view, other)


def broadcast(node: Node, view: View, factor: Tensor | None = None) -> Use | None:
    """A parameter that is added, or multiplied by `factor`, entry by entry."""
    if view.shape is None or (view.transposed and len(view.shape) > 1):
        return None
    shape, numel = view.shape, math.prod(view.shape)
    if factor is None and len(shape) == 1 and numel > 1:
        return Use(view.param, GradientEdge(node, 0), matrix, None)

    def rows(cotangent: Tensor) -> Tensor:
        if factor is not None:
            cotangent = cotangent * factor.conj().to(cotangent)
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


def _divide(node: Node, argument: int, view: View) -> Use | None:
    """w / x, and x / w, whose derivative is -x / w^2; broadcast over samples."""
    other = saved(node, "other")
    if not isinstance(other, Tensor):
        return None
    if argument == 0:
        return broadcast(node, view, 1 / other)
    return broadcast(node, view, -saved(node, "self") / other.square())


def _prelu(node: Node, argument: int, view: View) -> Use | None:
    """x where it is positive and w x elsewhere: the derivative in w is min(x, 0)."""
    return broadcast(node, view, saved(node, "self").clamp(max=0)) if argument == 1 else None


def _repeat(node: Node, argument: int, view: View) -> Use | None:
    """Copies of w below one another, one for each sample."""
    repeats = [int(count) for count in saved(node, "repeats")]
    if view.transposed or view.shape is None or math.prod(repeats[1:]) != 1:
        return None
    numel = math.prod(view.shape)
    return Use(view.param, GradientEdge(node, 0), lambda c: c.reshape(-1, numel), None)


BROADCASTS: dict[str, Reader] = {
    "AddBackward0": _add,
    "DivBackward0": _divide,
    "MulBackward0": _multiply,
    "PreluKernelBackward0": _prelu,
    "RepeatBackward0": _repeat,
    "SubBackward0": _subtract,
}
"""Operations whose parameter is broadcast over samples."""
