"""Lists of tensors as one vector, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

CHUNK = 2**18
"""Entries of a vector that `add_multiple_` takes at a time: 1 or 2 MiB, which a core's cache holds,
and enough for the calls to cost nothing beside the arithmetic."""


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate tensors of any shapes into one vector, in the order given.

    >>> flatten([torch.eye(2), torch.tensor(5.0)])
    tensor([1., 0., 0., 1., 5.])
    """
    return torch.cat([t if t.ndim == 1 else t.reshape(-1) for t in tensors])


def spread(
    values: Sequence[float], like: Sequence[Tensor], dtype: torch.dtype | None = None
) -> Tensor:
    """A number for each tensor as a vector with one entry for each of the tensors' entries.

    >>> spread([1.0, 2.0], [torch.eye(2), torch.zeros(1)])
    tensor([1., 1., 1., 1., 2.])

    Args:
        values: one for each tensor.
        like: the tensors.
        dtype: of the vector; theirs if none is given.
    """
    pairs = zip(values, like, strict=True)
    return torch.cat([t.new_full((t.numel(),), value, dtype=dtype) for value, t in pairs])


def norm(vector: Tensor) -> float:
    """The Euclidean length of a vector, as a number."""
    return float(torch.linalg.vector_norm(vector))


def numbers(*scalars: Tensor) -> list[float]:
    """Tensors of one entry each as numbers, for which a graphics card is waited for once."""
    values: list[float] = torch.stack(scalars).tolist()
    return values


def add_multiple_(y: Tensor, factor: float, x: Tensor) -> Tensor:
    """Add `factor` times x to y in place, rounded as in ``y + factor * x``: twice for each entry.

    (``y.add_(x, alpha=factor)`` rounds once or twice, as the machine has it.) Long vectors are
    taken in pieces, so that no third vector of their length is needed.

    Args:
        y: n entries, or n x k.
        factor: a number.
        x: of the same shape; it may not share memory with y.
    """
    if len(y) <= CHUNK:
        return y.add_(factor * x)
    for piece, other in zip(torch.split(y, CHUNK), torch.split(x, CHUNK), strict=True):
        piece.add_(factor * other)
    return y


def all_finite(vector: Tensor) -> bool:
    """Whether no entry is infinite or NaN."""
    # The square is a single number to look at, but may overflow where no entry does.
    flat = vector.reshape(-1)
    return math.isfinite(float(flat @ flat)) or bool(flat.isfinite().all())


def filled(tensors: Iterable[Tensor | None], like: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors, with zeros shaped as in `like` for those that are None."""
    pairs = zip(tensors, like, strict=True)
    return [torch.zeros_like(t) if tensor is None else tensor for tensor, t in pairs]


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut `vector` into tensors shaped as those in `like`: the inverse of `flatten`.

    They share its memory, but for those that would begin at an odd entry: a view of pairs of
    numbers as complex ones must begin at an even one.

    >>> unflatten(torch.arange(5.0), [torch.eye(2), torch.tensor(0.0)])
    [tensor([[0., 1.],
            [2., 3.]]), tensor(4.)]
    """
    pieces = vector.split_with_sizes([tensor.numel() for tensor in like])
    pairs = zip(pieces, like, strict=True)
    return [_even(piece if t.ndim == 1 else piece.view(t.shape)) for piece, t in pairs]


def _even(piece: Tensor) -> Tensor:
    return piece.clone() if piece.storage_offset() % 2 else piece
