"""Rows or columns of a Jacobian one at a time: for any graph, but slowly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..linalg.factored_jacobian import Factor, FactoredJacobian
from .assembly import Part, stack
from .loss_curvature import OutputHessianRoot
from .residuals import Term

MAX_COLUMNWISE = 64
"""Parameters up to which a Jacobian is formed by as many products."""

MAX_ROWWISE = 256
"""Rows up to which it is formed by as many backward passes."""


def jacobian_by_autograd(
    terms: Sequence[Term], params: Sequence[Tensor], roots: Sequence[OutputHessianRoot]
) -> FactoredJacobian | None:
    """The scaled Jacobian by whichever are fewer, rows or columns; None above the budget."""
    sizes = [term.like.numel() for term in terms]
    columns = sum(param.numel() for param in params)
    parts: list[Part] | None = None
    if columns <= MAX_COLUMNWISE and columns < sum(sizes):
        parts = columns_by_autograd(terms, params, roots, range(len(params)))
    if parts is None and sum(sizes) <= MAX_ROWWISE:
        parts = rows_by_autograd(terms, params, roots)
    return None if parts is None else stack(parts, params, sizes)


def columns_by_autograd(
    terms: Sequence[Term],
    params: Sequence[Tensor],
    roots: Sequence[OutputHessianRoot],
    chosen: Sequence[int],
) -> list[Part] | None:
    r"""The columns of the chosen parameters; None where a backward pass has no derivative.

    :math:`\hat J e_p` is the derivative in u of :math:`(\hat J^T u)_p`.
    """
    us = [torch.zeros_like(term.like, requires_grad=True) for term in terms]
    weights = [root.apply(u) for root, u in zip(roots, us, strict=True)]
    columns: list[list[Tensor]] = [[] for _ in chosen]
    try:
        gradients = torch.autograd.grad(
            [term.z for term in terms],
            [params[i] for i in chosen],
            weights,
            create_graph=True,
            allow_unused=True,
        )
        for gradient, found in zip(gradients, columns, strict=True):
            if gradient is None or not gradient.requires_grad:
                continue
            for entry in gradient.reshape(-1).unbind():
                pieces = torch.autograd.grad(
                    entry, us, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                found.append(torch.cat([piece.reshape(-1) for piece in pieces]))
    except RuntimeError:
        return None
    parts: list[Part] = [{} for _ in terms]
    sizes = [term.like.numel() for term in terms]
    for i, found in zip(chosen, columns, strict=True):
        if found:
            for part, rows in zip(parts, torch.split(torch.stack(found, 1), sizes), strict=True):
                part[i] = Factor(rows[:, None], None)
    return parts


def rows_by_autograd(
    terms: Sequence[Term], params: Sequence[Tensor], roots: Sequence[OutputHessianRoot]
) -> list[Part]:
    """One backward pass a row, all rows of a term at once."""
    parts = []
    for term, root in zip(terms, roots, strict=True):
        size = term.like.numel()
        units = torch.eye(size).to(term.like).reshape(size, *term.like.shape)
        units = torch.stack([root.apply(unit) for unit in units])
        grads = _batched_gradients(term.z, params, units)
        parts.append(
            {i: Factor(g.reshape(size, 1, -1), None) for i, g in enumerate(grads) if g is not None}
        )
    return parts


def _batched_gradients(
    z: GradientEdge, params: Sequence[Tensor], units: Tensor
) -> Sequence[Tensor | None]:
    def gradients(weights: Tensor, batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            [z],
            list(params),
            [weights],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )

    try:
        return gradients(units, True)
    except RuntimeError:  # an operation that cannot be vectorised
        each = [gradients(unit, False) for unit in units]
    return [
        None if column[0] is None else torch.stack([g for g in column if g is not None])
        for column in zip(*each, strict=True)
    ]
