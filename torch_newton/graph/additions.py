"""What is added to what a product of matrices makes, in an operation of its own."""

from __future__ import annotations

from collections.abc import Container

from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import output_shape, saved
from .views import Place

RESHAPES = {"ReshapeAliasBackward0", "UnsafeViewBackward0", "ViewBackward0"}
"""Operations that leave the entries in their order."""


def added_to(
    output: GradientEdge, among: Container[GradientEdge], shared: Container[Place]
) -> GradientEdge | None:
    """Of an addition, which of `among` an argument is, reshaped at most.

    `torch.nn.functional.linear` adds a bias that way where the input is not contiguous, as in
    attention with ``batch_first=True``. Both have the same cotangent, unless the product is used
    elsewhere, too, or is scaled or broadcast by the addition.

    Args:
        output: what an operation returned.
        among: what products of matrices returned.
        shared: what more than one operation takes.
    """
    node = output.node
    if node.name() != "AddBackward0" or saved(node, "alpha", 1) != 1:
        return None
    for parent, number in node.next_functions:
        if parent is not None:
            product = _reshaped(parent, number, among, shared)
            if product is not None and _numel(*product[:2]) == _numel(node):
                return product
    return None


def _reshaped(
    node: Node, number: int, among: Container[GradientEdge], shared: Container[Place]
) -> GradientEdge | None:
    """Which of `among` has these entries."""
    parent: Node | None = node
    while parent is not None and (parent, number) not in shared:
        product = GradientEdge(parent, number)
        if product in among:
            return product
        if parent.name() not in RESHAPES:
            return None
        parent, number = parent.next_functions[0]
    return None


def _numel(node: Node, number: int = 0) -> int | None:
    shape = output_shape(node, number)
    return None if shape is None else shape.numel()
