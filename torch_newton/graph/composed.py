r"""Parameters that reach the data through tensors computed from parameters alone.

A weight that is normalized, sliced, masked, or a product of two others is a tensor T, and only T
meets the samples. The Jacobian in T is read as that of a parameter would be; backward passes from
T to the parameters, one for each row, make it that in the parameters,
:math:`J_\theta = J_T \, \partial T / \partial\theta`. These are short passes, in which no sample
occurs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch.autograd.graph import GradientEdge

from ..linalg.factor import Factor
from .assembly import Part
from .by_autograd import batched_gradients
from .check import confirmed
from .derived import PRODUCTS, Derived, derived
from .per_sample import read_searched
from .readers import find_uses
from .reading import Found, Request
from .use import MAX_ENTRIES


def composed(request: Request, wanted: Collection[int]) -> Found:
    """What can be read of parameters by way of tensors that are computed from them."""
    found = _read(request, wanted, frozenset(PRODUCTS))
    rest = set(wanted) - found.read
    # What a product with a constant makes may be a parameter, too: a rotation of an orthogonal one.
    return found.beside(_read(request, rest, frozenset())) if rest else found


def _read(request: Request, wanted: Collection[int], with_data: Collection[str]) -> Found:
    roots = [term.z.node for term in request.terms]
    tensors = derived(roots, request.params, wanted, with_data)
    if not tensors or _entries(request, tensors, wanted) > MAX_ENTRIES:
        return Found(request)
    uses = find_uses(roots, (), [(t.place, t.shape) for t in tensors])
    inner = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in tensors]
    places = {k: t.place for k, t in enumerate(tensors)}
    found = read_searched(replace(request, params=inner), uses, places)
    through = {i: {k for k in places if i in tensors[k].params} for i in wanted}
    read = [i for i, ks in through.items() if ks and found.read.issuperset(ks)]
    obstacles = {
        i: next(found.obstacles.get(k, "an unknown use") for k in ks - found.read)
        for i, ks in through.items()
        if not found.read.issuperset(ks)
    }
    parts = [_chained(request, read, tensors, part) for part in found.parts] if read else []
    whole = Found(request, parts, frozenset(read), obstacles)
    right = confirmed(whole)
    return whole.only(right, dict.fromkeys(whole.read - right, "a computed weight was misread"))


def _entries(request: Request, tensors: Sequence[Derived], wanted: Collection[int]) -> int:
    """Of what is formed: the Jacobian in the tensors and in the parameters."""
    columns = sum(t.shape.numel() for t in tensors) + sum(request.params[i].numel() for i in wanted)
    return columns * sum(request.sizes)


def _chained(request: Request, read: Sequence[int], tensors: Sequence[Derived], part: Part) -> Part:
    """The columns of parameters, from those of the tensors."""
    used = [k for k in part if not tensors[k].params.isdisjoint(read)]
    if not used:
        return {}
    rows = [part[k].dense() for k in used]
    gradients = batched_gradients(
        [GradientEdge(*tensors[k].place) for k in used],
        [request.params[i] for i in read],
        [r.reshape(len(r), *tensors[k].shape) for r, k in zip(rows, used, strict=True)],
    )
    return {
        i: Factor(gradient.reshape(len(gradient), 1, -1), None)
        for i, gradient in zip(read, gradients, strict=True)
        if gradient is not None
    }
