"""Where parameters enter a graph, and what a backward pass says there about their derivative.

A reader knows one operation. From the cotangent that a backward pass leaves at the operation's
output it makes n rows, each belonging to one sample; with the operand's n rows they are the
derivative in the parameter. One function and one line of a table add an operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.autograd.graph import Node

from .broadcasts import BROADCASTS
from .convolutions import CONVOLUTIONS
from .matrix_products import MATRIX_PRODUCTS
from .use import Reader, Use
from .views import View, Views

__all__ = ["READERS", "Use", "Uses", "find_uses"]

READERS: dict[str, Reader] = {**MATRIX_PRODUCTS, **BROADCASTS, **CONVOLUTIONS}
"""Operations that take a parameter, and how their rows are read."""


@dataclass(frozen=True)
class Uses:
    """What a walk over a graph finds.

    Attributes:
        uses: where parameters enter through operations that are all known.
        obstacles: of the other parameters, by their numbers, an operation that is not known.
    """

    uses: list[Use]
    obstacles: dict[int, str]


def find_uses(roots: Sequence[Node], params: Sequence[Tensor]) -> Uses:
    """Every place behind `roots` where a parameter enters."""
    views = Views(params)
    uses: list[Use] = []
    obstacles: dict[int, str] = {}
    seen, stack = set(roots), list(set(roots))
    for root in roots:
        own = views.at(root)
        if own is not None:
            obstacles.setdefault(own.param, root.name())
    while stack:
        node = stack.pop()
        for argument, (parent, _) in enumerate(node.next_functions):
            if parent is None:
                continue
            view = views.at(parent)
            if view is not None:
                use = _read(node, argument, view)
                if use is None:
                    obstacles.setdefault(view.param, node.name())
                else:
                    uses.append(use)
            elif parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return Uses([use for use in uses if use.param not in obstacles], obstacles)


def _read(node: Node, argument: int, view: View) -> Use | None:
    """The use of a parameter as one argument of an operation; None where no reader knows it."""
    reader = READERS.get(node.name())
    use = None if reader is None or view.shape is None else reader(node, argument, view)
    return use if use is None or view.scale == 1 else replace(use, scale=view.scale)
