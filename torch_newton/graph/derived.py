"""Tensors that are computed from parameters alone, and are then used with data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from ..autodiff.nodes import leaf, operands, output_dtype, output_shape, topological
from .convolutions import CONVOLUTIONS
from .matrix_products import MATRIX_PRODUCTS
from .views import Place, source

PRODUCTS = {**MATRIX_PRODUCTS, **CONVOLUTIONS}
"""Operations that combine a weight with data, as a rule."""

COPIES = "ExpandBackward0"


@dataclass(frozen=True)
class Derived:
    """A tensor that is computed from parameters.

    Attributes:
        place: where it is in the graph.
        shape: its shape.
        dtype: its number type, which may be complex.
        params: the parameters that it is computed from, by their numbers.
    """

    place: Place
    shape: torch.Size
    dtype: torch.dtype
    params: frozenset[int]


def derived(
    roots: Sequence[Node],
    params: Sequence[Tensor],
    wanted: Collection[int],
    with_data: Collection[str],
) -> list[Derived]:
    """The last tensors on the paths of parameters that are computed from parameters alone.

    Whether a constant that a parameter is combined with is data cannot be seen. It is taken for
    data where the result is larger than what the parameters contribute, and in operations that
    are said to be with data.

    Args:
        roots: the nodes at which the graph begins.
        params: the parameters.
        wanted: the numbers of the parameters of interest; those that no tensor leads to are
            beyond this way of reading.
        with_data: the names of operations whose constants are taken for data in any case.
    """
    sources = {
        get_gradient_edge(param).node: frozenset([i])
        for i, param in enumerate(params)
        if not param.is_leaf
    }
    leaves = {param: i for i, param in enumerate(params) if param.is_leaf}
    last: dict[Place, Derived] = {}
    for node in topological(roots):
        found = sources.get(node) or _params_of(node, sources, leaves, with_data)
        if found is not None:
            sources[node] = found
            continue
        for edge in operands(node):
            if edge is None or edge.node not in sources:
                continue
            known, place = sources[edge.node], _before_copies((edge.node, edge.output_nr))
            shape, dtype = output_shape(*place), output_dtype(*place)
            if known.isdisjoint(wanted) or shape is None or dtype is None:
                continue
            last[place] = Derived(place, shape, dtype, known)
    return list(last.values())


def _before_copies(place: Place) -> Place:
    """What is broadcast, instead of its copies, which `Views` sees through."""
    while place[0].name() == COPIES:
        found = source(place[0])
        if found is None:
            break
        place = found
    return place


def _params_of(
    node: Node,
    sources: dict[Node, frozenset[int]],
    leaves: dict[Tensor, int],
    with_data: Collection[str],
) -> frozenset[int] | None:
    """The parameters that a node's output is computed from; None where data may be in it."""
    variable = leaf(node)
    if variable is not None:
        return frozenset([leaves[variable]]) if variable in leaves else None
    edges = operands(node)
    known = [edge for edge in edges if edge is not None]
    if not known or any(edge.node not in sources for edge in known):
        return None
    if len(known) < len(edges) and node.name() in with_data:
        return None
    largest = sum(_entries(edge.node, edge.output_nr) for edge in known)
    if node.name() == COPIES:  # for a norm by which a weight is divided, or for samples
        return sources[known[0].node]
    if (len(known) == 1 or len(known) < len(edges)) and _entries(node, 0) > largest:
        return None
    return frozenset().union(*(sources[edge.node] for edge in known))


def _entries(node: Node, number: int) -> int:
    shape = output_shape(node, number)
    return 0 if shape is None else shape.numel()
