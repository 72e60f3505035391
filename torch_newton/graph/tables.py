"""Readers of tables, of which each sample uses few rows: embeddings, latent codes, factors.

A cotangent has a row for each row of the table that was taken. It is held with that row's number,
so that a table of a hundred thousand rows costs as much as one of ten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import saved, wrapped
from .use import Reader, Use, matrix
from .views import Place, View

SUM, MEAN = 0, 1
"""How `torch.nn.functional.embedding_bag` numbers its modes."""


def _embedding(node: Node, argument: int, view: View) -> Use | None:
    """Rows of W by number."""
    indices, size = saved(node, "indices"), saved(node, "weight_sym_argsize_0")
    unusual = saved(node, "scale_grad_by_freq", False) or view.transposed or view.shape is None
    if unusual or indices is None or size is None:
        return None
    index, padding = indices.reshape(-1), saved(node, "padding_idx", -1)
    kept = (index != padding)[:, None]

    def unpadded(cotangent: Tensor) -> Tensor:
        found: Tensor = matrix(cotangent) * kept
        return found

    # Negative, or wrapped around, where there is no padding.
    rows = unpadded if 0 <= padding < int(size) else matrix
    return Use(view.param, GradientEdge(node, 0), rows, None, index=index, number=int(size))


def _embedding_bag(node: Node, argument: int, view: View) -> Use | None:
    """Sums and means of rows of W by number."""
    index, offsets, size = (saved(node, n) for n in ("indices", "offsets", "weight_sym_argsize_0"))
    mode, weights = saved(node, "mode"), saved(node, "per_sample_weights")
    unusual = saved(node, "scale_grad_by_freq", False) or view.transposed or view.shape is None
    if argument != 0 or unusual or mode not in (SUM, MEAN):
        return None
    if 0 <= saved(node, "padding_idx", -1) < int(size):
        return None
    places = torch.arange(len(index), device=index.device)
    bag = torch.searchsorted(offsets, places, right=True) - 1
    scale = weights if mode == SUM else torch.bincount(bag)[bag].reciprocal()

    def rows(cotangent: Tensor) -> Tensor:
        found = cotangent[bag]
        return found if scale is None else found * scale.to(found)[:, None]

    return Use(view.param, GradientEdge(node, 0), rows, None, index=index, number=int(size))


def _take_index(node: Node, order: Tensor) -> Tensor:
    """w[i], w[i, j], w[:, j] and so on, for tensors i and j."""
    return order[tuple(slice(None) if i is None else i for i in saved(node, "indices"))]


def _take_selected(node: Node, order: Tensor) -> Tensor:
    return order.index_select(wrapped(saved(node, "dim")), saved(node, "index"))


def _take_gathered(node: Node, order: Tensor) -> Tensor:
    return order.gather(wrapped(saved(node, "dim")), saved(node, "index"))


TAKES: dict[str, Callable[[Node, Tensor], Tensor]] = {
    "GatherBackward0": _take_gathered,
    "IndexBackward0": _take_index,
    "IndexSelectBackward0": _take_selected,
}
"""Operations that take entries of a tensor by number, and what they take of another one."""


def positions(node: Node, shape: Sequence[int]) -> Tensor:
    """Which of the entries of a tensor of some shape an operation takes, by their numbers."""
    index = saved(node, "index")
    if index is None:
        index = next(i for i in saved(node, "indices") if isinstance(i, Tensor))
    order = torch.arange(math.prod(shape), device=index.device).reshape(tuple(shape))
    return TAKES[node.name()](node, order)


def _taken(node: Node, argument: int, view: View) -> Use | None:
    """What an operation takes from w, which is seen from what it takes from 0, 1, 2, ..."""
    if view.shape is None or view.transposed:
        return None
    number, width = math.prod(view.shape), view.shape[-1] if view.shape else 1
    taken = positions(node, view.shape)
    whole = len(view.shape) > 1 and taken.shape[-1:] == view.shape[-1:]
    if whole:  # whole rows, if entries follow one another and the first is at the start of one
        first = taken[..., :1]
        follow = taken - first == torch.arange(width, device=taken.device)
        whole = bool(follow.all() and (first % width == 0).all())
    if not whole:
        output, index = GradientEdge(node, 0), taken.reshape(-1)
        return Use(view.param, output, _entries, None, index=index, number=number)
    index, number = taken[..., 0].reshape(-1) // width, number // width
    return Use(view.param, GradientEdge(node, 0), matrix, None, index=index, number=number)


def _entries(cotangent: Tensor) -> Tensor:
    """Rows of one entry."""
    return cotangent.reshape(-1, 1)


def own_rows(place: Place, param: int, shape: torch.Size, device: torch.device) -> Use:
    """A table each row of which is used by one sample, in whatever way."""
    index = torch.arange(shape[0], device=device)
    output = GradientEdge(*place)
    return Use(param, output, _first, None, index=index, number=shape[0])


def _first(cotangent: Tensor) -> Tensor:
    """All dimensions but the first one as columns."""
    return cotangent.reshape(len(cotangent), -1)


TABLES: dict[str, Reader] = {
    "EmbeddingBackward0": _embedding,
    "EmbeddingBagBackward0": _embedding_bag,
    **dict.fromkeys(TAKES, _taken),
}
"""Operations that take rows, or entries, of a table by number."""
