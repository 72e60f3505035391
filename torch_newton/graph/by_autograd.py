"""Columns or rows of a Jacobian one at a time: for any graph, but slowly."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..autodiff.batched import ENTRIES, OTHER_ENTRIES
from ..autodiff.nodes import largest_gradient
from ..autodiff.products import check_twice_differentiable
from ..linalg.factor import Factor
from .assembly import Part
from .reading import Found, Request

MAX_COLUMNWISE = 64
"""Entries of parameters up to which their columns are taken one at a time. Each takes a backward
pass through a backward pass, as a Hessian product does, of which a step without a preconditioner
takes up to 50."""


def columns(request: Request, wanted: Collection[int]) -> Found:
    r"""The columns, where there are few, and fewer than rows.

    :math:`\hat J e_p` is the derivative in u of :math:`(\hat J^T u)_p`.
    """
    entries, rows = sum(request.params[i].numel() for i in wanted), sum(request.sizes)
    if entries > MAX_COLUMNWISE or request.max_rowwise >= rows <= entries:
        return Found(request)
    us = [torch.zeros_like(term.like, requires_grad=True) for term in request.terms]
    weights = [root.apply(u) for root, u in zip(request.roots, us, strict=True)]
    chosen = sorted(wanted)
    try:
        gradients = torch.autograd.grad(
            [term.z for term in request.terms],
            [request.params[i] for i in chosen],
            weights,
            create_graph=True,
            allow_unused=True,
        )
        check_twice_differentiable([term.z.node for term in request.terms], gradients)
        found = {
            i: _derivative(gradient, us)
            for i, gradient in zip(chosen, gradients, strict=True)
            if gradient is not None and gradient.requires_grad
        }
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # a backward pass without a derivative
        return Found(request)
    parts: list[Part] = [{} for _ in request.terms]
    for i, matrix in found.items():
        for part, piece in zip(parts, torch.split(matrix, request.sizes), strict=True):
            part[i] = Factor(piece[:, None], None)
    return Found(request, parts, frozenset(wanted))


def _derivative(gradient: Tensor, us: Sequence[Tensor]) -> Tensor:
    """R x n: the derivative in all u of each of n entries."""
    columns = []
    for entry in gradient.reshape(-1).unbind():
        pieces = torch.autograd.grad(
            entry, us, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        columns.append(torch.cat([piece.reshape(-1) for piece in pieces]))
    return torch.stack(columns, 1)


def rows(request: Request, wanted: Collection[int]) -> Found:
    """The rows, where there are not many: one backward pass a row, all rows of a term at once."""
    if sum(request.sizes) > request.max_rowwise:
        return Found(request)
    chosen = sorted(wanted)
    parts: list[Part] = []
    for term, root, size in zip(request.terms, request.roots, request.sizes, strict=True):
        units = torch.eye(size).to(term.like).reshape(size, *term.like.shape)
        units = torch.stack([root.apply(unit) for unit in units])
        gradients = _in_batches(term.z, [request.params[i] for i in chosen], units)
        parts.append(
            {
                i: Factor(gradient.reshape(size, 1, -1), None)
                for i, gradient in zip(chosen, gradients, strict=True)
                if gradient is not None
            }
        )
    return Found(request, parts, frozenset(wanted))


def _in_batches(
    z: GradientEdge, params: Sequence[Tensor], units: Tensor
) -> Sequence[Tensor | None]:
    """`batched_gradients`, for as many rows at a time as a cache or the memory holds."""
    entries = ENTRIES.get(units.device.type, OTHER_ENTRIES)
    step = max(1, entries // max(1, largest_gradient([z.node])))
    batches = [batched_gradients([z], params, [part]) for part in torch.split(units, step)]
    if len(batches) == 1:
        return batches[0]
    return [
        None if column[0] is None else torch.cat([part for part in column if part is not None])
        for column in zip(*batches, strict=True)
    ]


def batched_gradients(
    outputs: Sequence[GradientEdge], params: Sequence[Tensor], weights: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """For each parameter the gradients of n weights on outputs, n x its shape; None where unused.

    Args:
        outputs: where they are in the graph.
        params: the parameters.
        weights: for each of the outputs, n x its shape.
    """

    def gradients(weights: Sequence[Tensor], batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            list(outputs),
            list(params),
            list(weights),
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )

    try:
        with warnings.catch_warnings():
            # PyTorch takes operations without a batched rule one by one, and says so.
            warnings.filterwarnings("ignore", ".*performance drop.*")
            return gradients(weights, True)
    except RuntimeError:  # an operation that cannot be vectorised, or a batch beyond the memory
        each = [gradients(single, False) for single in zip(*weights, strict=True)]
    return [
        None if column[0] is None else torch.stack([g for g in column if g is not None])
        for column in zip(*each, strict=True)
    ]
