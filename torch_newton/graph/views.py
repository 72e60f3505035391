"""How a parameter reaches the operation that uses it: transposed, broadcast, or scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from ..autodiff.nodes import leaf, output_shape, saved


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


class Views:
    """Finds the parameters among the inputs of nodes, and remembers the nodes it has met."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params
        # Tensors are told apart as objects: their hash is that, and two are never compared.
        self._leaves = {param: i for i, param in enumerate(params) if param.is_leaf}
        self._known: dict[Node, View | None] = {
            get_gradient_edge(param).node: self._whole(i)
            for i, param in enumerate(params)
            if not param.is_leaf
        }

    def at(self, node: Node) -> View | None:
        """The parameter that `node` is or is a view of; None where it is neither."""
        chain: list[Node] = []
        parent: Node | None = node
        while parent is not None and parent not in self._known:
            chain.append(parent)
            name = parent.name()
            if name in VIEWS or name in SCALES:
                parent = _source(parent)
            else:
                self._known[chain.pop()] = self._leaf(parent)
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
        return View(i, False, tuple(self._params[i].shape))

    def _through(self, node: Node, source: View | None) -> View | None:
        if source is None or source.shape is None:
            return source
        name = node.name()
        if name in SCALES:
            scale = SCALES[name](node)
            return None if scale is None else replace(source, scale=scale * source.scale)
        if name == "TBackward0" and len(source.shape) == 2:
            return replace(source, transposed=not source.transposed, shape=source.shape[::-1])
        return replace(self._rearranged(source.param, node), scale=source.scale)

    def _rearranged(self, param: int, node: Node) -> View:
        """What a chain of views makes of the numbers 0, 1, 2, ... in the parameter's shape."""
        size = self._params[param].shape
        order = torch.arange(size.numel()).reshape(size)
        chain = [node]
        while chain[-1].name() in VIEWS or chain[-1].name() in SCALES:
            parent = _source(chain[-1])
            if parent is None:
                break
            chain.append(parent)
        found = order
        for step in reversed(chain[:-1]):
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


def _source(node: Node) -> Node | None:
    """The only input that needs a gradient."""
    parents = [parent for parent, _ in node.next_functions if parent is not None]
    return parents[0] if len(parents) == 1 else None


def _dim(number: int) -> int:
    """A dimension as autograd saves it, with negative ones wrapped around 2**64."""
    return number - 2**64 if number >= 2**63 else number


def _reshaped(node: Node, x: Tensor, shape: torch.Size) -> Tensor:
    return x.reshape(shape)


VIEWS: dict[str, Callable[[Node, Tensor, torch.Size], Tensor] | None] = {
    "TBackward0": lambda node, x, shape: x.t(),
    "TransposeBackward0": lambda node, x, shape: x.transpose(
        _dim(saved(node, "dim0")), _dim(saved(node, "dim1"))
    ),
    "PermuteBackward0": lambda node, x, shape: x.permute([_dim(d) for d in saved(node, "dims")]),
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
        return float(value) if value.ndim == 0 else None
    return None if value is None else float(value)


SCALES: dict[str, Callable[[Node], float | None]] = {
    "DivBackward0": _divisor,
    "MulBackward0": _factor,
    "NegBackward0": lambda node: -1.0,
}
"""Multiplications by a number."""
