"""How a parameter reaches the operation that uses it: transposed, broadcast, or scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from ..autodiff.nodes import leaf, output_shape, saved, wrapped


@dataclass(frozen=True)
class View:
    """A parameter as an operation sees it.

    Attributes:
        param: which one.
        transposed: whether its entries come in the order of its transpose.
        shape: its shape there, with 1 in place of every broadcast dimension; None where the
            view is a part of the parameter or another rearrangement, which no reader knows.
        scale: a number that it is multiplied by.
    """

    param: int
    transposed: bool
    shape: tuple[int, ...] | None
    scale: float = 1.0


Place = tuple[Node, int]
"""A node, and which of its outputs."""


class Views:
    """Finds the parameters among the inputs of nodes, and remembers the nodes it has met.

    Args:
        params: the parameters.
        inner: what is to be found in their place, where given: the places in the graph of tensors
            that are computed from parameters, and their shapes.
    """

    def __init__(
        self, params: Sequence[Tensor], inner: Sequence[tuple[Place, torch.Size]] | None = None
    ) -> None:
        # Tensors are told apart as objects: their hash is that, and two are never compared.
        self._leaves: dict[Tensor, int] = {}
        if inner is None:
            self._shapes = [param.shape for param in params]
            self._leaves = {param: i for i, param in enumerate(params) if param.is_leaf}
            edges = {i: get_gradient_edge(p) for i, p in enumerate(params) if not p.is_leaf}
            sources = {(edge.node, edge.output_nr): i for i, edge in edges.items()}
        else:
            self._shapes = [shape for _, shape in inner]
            sources = {place: i for i, (place, _) in enumerate(inner)}
        self._sources = sources
        self._known: dict[Place, View | None] = {
            place: self._whole(i) for place, i in sources.items()
        }

    def at(self, place: Place) -> View | None:
        """The parameter that is there or is viewed there; None where it is neither."""
        chain: list[Place] = []
        parent: Place | None = place
        while parent is not None and parent not in self._known:
            chain.append(parent)
            name = parent[0].name()
            if name in VIEWS or name in SCALES:
                parent = source(parent[0])
            else:
                self._known[chain.pop()] = self._leaf(parent[0])
                break
        found = None if parent is None else self._known[parent]
        for step in reversed(chain):
            found = self._known[step] = self._through(step, found)
        return found

    def _leaf(self, node: Node) -> View | None:
        variable = leaf(node)
        i = None if variable is None else self._leaves.get(variable)
        return None if i is None else self._whole(i)

    def _whole(self, i: int) -> View:
        return View(i, False, tuple(self._shapes[i]))

    def _through(self, place: Place, seen: View | None) -> View | None:
        if seen is None or seen.shape is None:
            return seen
        node = place[0]
        name = node.name()
        if name in SCALES:
            scale = SCALES[name](node)
            return None if scale is None else replace(seen, scale=scale * seen.scale)
        if name == "TBackward0" and len(seen.shape) == 2:
            return replace(seen, transposed=not seen.transposed, shape=seen.shape[::-1])
        return replace(self._rearranged(seen.param, place), scale=seen.scale)

    def _rearranged(self, param: int, place: Place) -> View:
        """What a chain of views makes of the numbers 0, 1, 2, ... in the parameter's shape."""
        size = self._shapes[param]
        order = torch.arange(size.numel()).reshape(size)
        chain: list[Node] = []
        parent: Place | None = place
        while parent is not None and parent not in self._sources:
            name = parent[0].name()
            if name not in VIEWS and name not in SCALES:
                break
            chain.append(parent[0])
            parent = source(parent[0])
        found = order
        for step in reversed(chain):
            if step.name() in SCALES:
                continue
            view, shape = VIEWS[step.name()], output_shape(step)
            if view is None or shape is None:
                return View(param, False, None)
            found = view(step, found, shape)
        for dim, stride in enumerate(found.stride()):
            if stride == 0:
                found = found.narrow(dim, 0, 1)
        flat = found.reshape(-1)
        if torch.equal(flat, order.reshape(-1)):
            return View(param, False, tuple(found.shape))
        if len(size) == 2 and torch.equal(flat, order.T.reshape(-1)):
            return View(param, True, tuple(found.shape))
        return View(param, False, None)


def source(node: Node) -> Place | None:
    """The only input that needs a gradient."""
    parents = [(parent, nr) for parent, nr in node.next_functions if parent is not None]
    return parents[0] if len(parents) == 1 else None


def _reshaped(node: Node, x: Tensor, shape: torch.Size) -> Tensor:
    return x.reshape(shape)


VIEWS: dict[str, Callable[[Node, Tensor, torch.Size], Tensor] | None] = {
    "TBackward0": lambda node, x, shape: x.t(),
    "TransposeBackward0": lambda node, x, shape: x.transpose(
        wrapped(saved(node, "dim0")), wrapped(saved(node, "dim1"))
    ),
    "PermuteBackward0": lambda node, x, shape: x.permute([wrapped(d) for d in saved(node, "dims")]),
    "ExpandBackward0": lambda node, x, shape: x.expand(shape),
    "AliasBackward0": _reshaped,  # as_subclass, for tensors that carry labels
    "CloneBackward0": _reshaped,
    "ReshapeAliasBackward0": _reshaped,
    "SqueezeBackward0": _reshaped,
    "SqueezeBackward1": _reshaped,
    "UnsafeViewBackward0": _reshaped,
    "UnsqueezeBackward0": _reshaped,
    "ViewBackward0": _reshaped,
    "SelectBackward0": None,
    "SliceBackward0": None,
    "SplitBackward0": None,
    "UnbindBackward0": None,
}
"""Views of a parameter, and what they do to a tensor; None for those that take a part of it."""


def _factor(node: Node) -> float | None:
    """The number by which a tensor is multiplied; None where it is a tensor."""
    first = node.next_functions[0][0] is not None
    return _number(saved(node, "other" if first else "self"))


def _divisor(node: Node) -> float | None:
    """One over the number by which a tensor is divided."""
    number = _number(saved(node, "other"))
    return 1 / number if number and node.next_functions[0][0] is not None else None


def _number(value: Tensor | float | None) -> float | None:
    if isinstance(value, Tensor):
        value = None if value.ndim or value.is_complex() else value.item()
    return None if value is None or isinstance(value, complex) else float(value)


SCALES: dict[str, Callable[[Node], float | None]] = {
    "DivBackward0": _divisor,
    "MulBackward0": _factor,
    "NegBackward0": lambda node: -1.0,
}
"""Multiplications by a number."""
