"""Autograd's graph, as far as this package reads it.

What autograd's nodes are called and what they have saved is private to PyTorch. This is the only
file that reads their private attributes; the room `graph` interprets what it returns. A graph that
holds unknown nodes is reported as not recognised, which costs speed and never correctness.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node


def inputs(node: Node) -> list[GradientEdge]:
    """The inputs of a node that need a gradient, in the order of its arguments."""
    return [edge for edge in operands(node) if edge is not None]


def operands(node: Node) -> list[GradientEdge | None]:
    """The inputs of a node in the order of its arguments, None for constants."""
    return [
        None if parent is None else GradientEdge(parent, number)
        for parent, number in node.next_functions
    ]


def saved(node: Node, name: str, default: Any = None) -> Any:
    """What a node keeps of its forward pass under `name`, and `default` where it keeps nothing.

    Tensors are returned as plain tensors without their graph, parameters among them.
    """
    value = getattr(node, f"_saved_{name}", default)
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    return value if type(value) is Tensor else value.as_subclass(Tensor)


def wrapped(number: int) -> int:
    """A dimension as autograd saves it, with negative ones wrapped around 2**64."""
    return number - 2**64 if number >= 2**63 else number


def leaf(node: Node) -> Tensor | None:
    """The tensor that the node accumulates into, where it is the end of a path."""
    if node.name() != "torch::autograd::AccumulateGrad":
        return None
    variable: Tensor = node.variable  # type: ignore[attr-defined]
    return variable


def output_shape(node: Node, number: int = 0) -> torch.Size | None:
    """The shape of what the operation returned; None where PyTorch does not say."""
    metadata = getattr(node, "_input_metadata", None)
    return None if metadata is None else torch.Size(metadata[number].shape)


def output_dtype(node: Node, number: int = 0) -> torch.dtype | None:
    """The number type of what the operation returned; None where PyTorch does not say."""
    metadata = getattr(node, "_input_metadata", None)
    if metadata is None:
        return None
    dtype: torch.dtype = metadata[number].dtype
    return dtype


def topological(roots: Sequence[Node]) -> list[Node]:
    """All nodes behind `roots`, themselves included, each after all of its inputs."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(edge.node, False) for edge in inputs(node) if edge.node not in seen]
    return order


def reachable(roots: Sequence[Node]) -> set[Node]:
    """All nodes behind `roots`, themselves included."""
    seen = set(roots)
    stack = list(seen)
    while stack:
        for edge in inputs(stack.pop()):
            if edge.node not in seen:
                seen.add(edge.node)
                stack.append(edge.node)
    return seen


def kinds(roots: Sequence[Node]) -> Counter[str]:
    """How many nodes of each name there are behind `roots`, themselves included."""
    return Counter(node.name() for node in reachable(roots))


def is_custom(node: Node) -> bool:
    """Whether the node belongs to a ``torch.autograd.Function`` that is written in Python."""
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def custom_classes(roots: Sequence[Node]) -> list[Any]:
    """The classes of the ``torch.autograd.Function`` behind `roots` that are written in Python."""
    classes = (getattr(node, "_forward_cls", None) for node in reachable(roots) if is_custom(node))
    return list({id(cls): cls for cls in classes if cls is not None}.values())


def largest_gradient(roots: Sequence[Node]) -> int:
    """Entries of the largest tensor that a backward pass from `roots` carries; 0 if unknown."""
    sizes = [
        math.prod(int(length) for length in entry.shape)
        for node in reachable(roots)
        for entry in getattr(node, "_input_metadata", ())
    ]
    return max(sizes, default=0)
