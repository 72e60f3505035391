"""The outputs z that a loss is made of, found in its autograd graph.

From the loss one walks back through operations that are linear, and stops at the first convex
one: the square of a mean of squares, the log-softmax of a cross-entropy. Its input is a part of
z. Then the loss is a sum of terms, each a convex function of its own z with a positive weight,
so that Q = (second derivative of the loss in z) is positive semidefinite and J^T Q J is the
generalized Gauss-Newton matrix of the loss as its author wrote it. An increasing function of
terms, such as a root, gives them its slope as a weight (the chain rule without the function's own
second derivative). Of anything else the second derivative is measured (`measured`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .convex import CURVED, NORMS, ROOTS
from .guard import attempt, warn_unreadable
from .measured import measured_terms
from .terms import Residuals, Term
from .walk import LINEAR, Candidate, End, walk
from .weights import direct_weights, total_weights

__all__ = [
    "CURVED",
    "LINEAR",
    "NORMS",
    "ROOTS",
    "Residuals",
    "Term",
    "find_residuals",
    "read_residuals",
]


def read_residuals(loss: Tensor) -> Residuals:
    """What `find_residuals` finds; an error in that is a warning, and leaves no terms."""
    found, failure = attempt(lambda: find_residuals(loss))
    if found is None:
        message = f"reading the terms of the loss off its graph failed ({failure})"
        warn_unreadable(message)
        return Residuals([], [str(failure)])
    return found


def find_residuals(loss: Tensor) -> Residuals:
    """Walk back from `loss`, a scalar with its graph, to the outputs that it is made of."""
    ends = walk(get_gradient_edge(loss))
    if all(end.candidates and not end.chained for end in ends):
        weights = total_weights(loss, [end.edge for end in ends])
        parts = [_parts(end, weight) for end, weight in zip(ends, weights, strict=True)]
        if None not in parts:
            return _without_inner([_term(part) for found in parts if found for part in found])
    return _piecewise(loss, ends)


def _piecewise(loss: Tensor, ends: Sequence[End]) -> Residuals:
    """The terms of a loss of which not all is a sum of known functions."""
    weights = direct_weights(loss, [end.edge for end in ends])
    terms: list[Term] = []
    unknown: dict[GradientEdge, Tensor] = {}
    for end, weight in zip(ends, weights, strict=True):
        parts = _parts(end, weight)
        if parts is None:
            unknown[end.edge] = weight
        else:
            terms += [_term(part) for part in parts]
    return measured_terms(unknown, terms)


@dataclass(frozen=True)
class _Part:
    """A candidate with its weight; `chained` as in `Term`."""

    candidate: Candidate
    weight: Tensor
    chained: bool


def _parts(end: End, weight: Tensor) -> list[_Part] | None:
    """The candidates of an end with their weights; None unless all these have the right sign."""
    if not end.candidates:
        return None
    inside = {end.edge: weight}
    if end.chained:
        edges = list(dict.fromkeys([*(c.edge for c in end.candidates), *end.concave]))
        slopes = torch.autograd.grad([end.edge], edges, [weight], retain_graph=True)
        inside = {edge: slope.detach() for edge, slope in zip(edges, slopes, strict=True)}
    if not all(bool((inside[edge] >= 0).all()) for edge in end.concave):
        return None
    parts = [_Part(found, inside[found.edge], end.chained) for found in end.candidates]
    return parts if all(_is_convex(part) for part in parts) else None


def _is_convex(part: _Part) -> bool:
    weight = part.weight
    return bool((weight >= 0 if part.candidate.curved.sign > 0 else weight <= 0).all())


def _term(part: _Part) -> Term:
    edge, z, curved = part.candidate.edge, part.candidate.z, part.candidate.curved
    square = None if curved.square is None else curved.square(edge.node, part.weight)
    if square is not None:
        residual, curvature = square
        return Term(edge, part.weight, z, curvature * residual, curvature, chained=part.chained)
    # Cut off at z: another term's z may lie further back on the same path.
    (gradient,) = torch.autograd.grad([edge], [z], [part.weight], retain_graph=True)
    bound = None if curved.bound is None else curved.bound(edge.node, part.weight)
    formula = curved.formula and partial(curved.formula, edge.node, part.weight)
    return Term(
        edge,
        part.weight,
        z,
        gradient.detach(),
        hessian=bound,
        formula=formula,
        chained=part.chained or (bound is not None and edge.node.name() != "VarBackward0"),
    )


def _without_inner(terms: Sequence[Term]) -> Residuals:
    """Without terms whose c(z) also feeds another term, so that their weight contains its slope."""
    inner = _inside_others(terms)
    names = [term.value.node.name() for term in inner]
    return Residuals([term for term in terms if term not in inner], names)


def _inside_others(terms: Sequence[Term]) -> list[Term]:
    """Terms whose c(z) also feeds another term."""
    if len(terms) < 2:
        return []
    # Autograd looks for a path, and computes only what lies on one.
    values = [term.value for term in terms]
    paths = torch.autograd.grad(
        [term.z for term in terms],
        values,
        [term.gradient for term in terms],
        retain_graph=True,
        allow_unused=True,
    )
    return [term for term, path in zip(terms, paths, strict=True) if path is not None]
