"""Where parameters enter a graph, and what a backward pass says there about their derivative.

A reader knows one operation. From the cotangent that a backward pass leaves at the operation's
output it makes n rows, each belonging to one sample; with the operand's n rows they are the
derivative in the parameter. One function and one line of a table add an operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .broadcasts import BROADCASTS, broadcast
from .convolutions import CONVOLUTIONS
from .indexed_products import indexed_product
from .matrix_products import MATRIX_PRODUCTS
from .normalizations import NORMALIZATIONS
from .tables import TABLES
from .use import Reader, Use
from .views import Place, View, Views, source

__all__ = ["READERS", "Use", "Uses", "find_uses"]

READERS: dict[str, Reader] = {
    **MATRIX_PRODUCTS,
    **BROADCASTS,
    **CONVOLUTIONS,
    **NORMALIZATIONS,
    **TABLES,
}
"""Operations that take a parameter, and how their rows are read."""


@dataclass(frozen=True)
class Uses:
    """What a walk over a graph finds.

    Attributes:
        uses: where parameters enter through operations that are all known.
        obstacles: of the other parameters, by their numbers, an operation that is not known.
        shared: what more than one operation takes, as far as the walk went.
    """

    uses: list[Use]
    obstacles: dict[int, str]
    shared: frozenset[Place] = frozenset()


def find_uses(
    roots: Sequence[Node],
    params: Sequence[Tensor],
    inner: Sequence[tuple[Place, torch.Size]] | None = None,
    readers: Mapping[str, Reader] | None = None,
) -> Uses:
    """Every place behind `roots` where a parameter enters.

    Args:
        roots: the nodes at which the walk begins.
        params: the parameters.
        inner: what is to be found in their place: see `Views`.
        readers: of operations, by their names; `READERS` where none are given.
    """
    readers = READERS if readers is None else readers
    views = Views(params, inner)
    uses: list[Use] = []
    copied: dict[GradientEdge, Use] = {}
    obstacles: dict[int, str] = {}
    seen, stack = set(roots), list(set(roots))
    taken, shared = {(root, 0) for root in roots}, set[Place]()
    for root in roots:
        own = views.at((root, 0))
        if own is not None:
            obstacles.setdefault(own.param, root.name())
    while stack:
        node = stack.pop()
        entries = indexed_product(node, views)
        if entries is not None:
            uses += entries
            continue
        for argument, (parent, number) in enumerate(node.next_functions):
            if parent is None:
                continue
            (shared if (parent, number) in taken else taken).add((parent, number))
            view = views.at((parent, number))
            if view is not None:
                use, copy = _read(readers, node, argument, view), _copied(parent, views)
                if use is not None:
                    uses.append(use)
                elif copy is not None:
                    copied[copy.output] = copy
                else:
                    obstacles.setdefault(view.param, node.name())
            elif parent not in seen:
                seen.add(parent)
                stack.append(parent)
    uses += copied.values()
    known = [use for use in uses if use.param not in obstacles]
    return Uses(known, obstacles, frozenset(shared))


def _read(readers: Mapping[str, Reader], node: Node, argument: int, view: View) -> Use | None:
    """The use of a parameter as one argument of an operation; None where no reader knows it."""
    reader = readers.get(node.name())
    use = None if reader is None or view.shape is None else reader(node, argument, view)
    return use if use is None or view.scale == 1 else replace(use, scale=view.scale)


def _copied(node: Node, views: Views) -> Use | None:
    """The use of a parameter that is expanded to a copy for each sample, whatever they are for."""
    place = source(node) if node.name() == "ExpandBackward0" else None
    view = None if place is None else views.at(place)
    use = None if view is None else broadcast(node, view)
    return use if use is None or view is None else replace(use, scale=view.scale)
