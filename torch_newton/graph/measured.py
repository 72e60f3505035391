"""Terms of which no formula is known: their second derivative in z is measured by products.

z is found by the structure of the graph (`cut`), and Q by what a few products with it say
(`output_hessian.measure`). Of a Q that is not positive semidefinite the positive part is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..autodiff.nodes import inputs, leaf, reachable
from .cut import cut
from .output_hessian import OutputHessian, measure, positive_part
from .terms import Residuals, Term
from .walk import is_scalar, of_parameters

Weighted = dict[GradientEdge, Tensor]
"""Edges, with the coefficients of what is there in the loss."""

CUTS = 4
"""Single tensors that are tried as z. Between two of them there is often nothing but a linear
operation, after which Q would be no other; each takes C + 2 products over the loss alone."""


def measured_terms(values: Weighted, known: Sequence[Term]) -> Residuals:
    """The terms of a loss of which a part is known by its terms, and another by where it is."""
    residuals = Residuals(list(known), [])
    linear: list[tuple[list[str], list[GradientEdge]]] = []
    for group in _groups(values):
        names = [edge.node.name() for edge in group]
        found = _attempt(group) or _each(_scalars(group)) or _attempt(group, together=True)
        if found is None:
            residuals.unrecognised.extend(names)
            continue
        residuals.terms.extend(found.terms)
        residuals.clipped.extend(names if found.clipped else [])
        linear += [(names, found.linear)] if found.linear else []
    # What is linear in outputs that no term depends on may be a penalty on parameters, whose
    # curvature would be missed.
    outputs = set(cut([term.z for term in residuals.terms]).frontier)
    for names, places in linear:
        of_outputs = outputs >= set(cut(places).frontier)
        (residuals.linear if of_outputs else residuals.unrecognised).extend(names)
    return residuals


@dataclass(frozen=True)
class _Found:
    """The terms of a group; whether some Q is not the second derivative; each z without one."""

    terms: list[Term]
    clipped: bool
    linear: list[GradientEdge]


def _groups(values: Weighted) -> list[Weighted]:
    """Values that depend on the same tensors together, others apart."""
    groups: list[tuple[Weighted, set[GradientEdge]]] = []
    for edge, weight in values.items():
        group, frontier = {edge: weight}, set(cut([edge]).frontier)
        for other in [other for other in groups if other[1] & frontier]:
            groups.remove(other)
            group, frontier = other[0] | group, frontier | other[1]
        groups.append((group, frontier))
    return [group for group, _ in groups]


def _scalars(group: Weighted) -> Weighted:
    """To first order in the numbers that it is a function of, a part of the loss is their sum.

    Where samples interact through a few sums, as in a quotient of two, they do not in these.
    """
    found: Weighted = {}
    stack = list(group.items())
    while stack:
        edge, weight = stack.pop()
        parts = inputs(edge.node)
        if not parts or not is_scalar(edge) or not all(is_scalar(part) for part in parts):
            found[edge] = found[edge] + weight if edge in found else weight
            continue
        slopes = torch.autograd.grad([edge], parts, [weight], retain_graph=True)
        stack += zip(parts, slopes, strict=True)
    return {} if found.keys() == group.keys() else found


def _each(scalars: Weighted) -> _Found | None:
    """The terms of each of several numbers; of what is concave in the outputs the slope is left."""
    terms: list[Term] = []
    slopes: list[GradientEdge] = []
    for edge, weight in scalars.items():
        found = _attempt({edge: weight}, exact=False)
        if found is None:
            slopes += cut([edge]).frontier
        else:
            terms += found.terms
            slopes += found.linear
    return _Found(terms, True, slopes) if terms else None


def _attempt(group: Weighted, exact: bool = True, together: bool = False) -> _Found | None:
    """The terms of a group of values, if any cut of it has a Q that can be used.

    Args:
        group: the values, with their weights.
        exact: whether the weights are those of the loss, rather than of its first order.
        together: whether Q may be one in which all entries of z interact.
    """
    places = cut(list(group))
    single = [edge for edge in places.single if leaf(edge.node) is None][:CUTS]
    choices = [[edge] for edge in single]
    if places.frontier not in choices:
        choices.append(places.frontier)
    try:
        for choice in choices:
            found = _terms(group, choice, exact, together)
            # Nearer to the loss than its curvature is, everything is linear.
            if found is not None and (found.terms or choice is choices[0]):
                return found
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # an operation without a second derivative
        return None
    return None


def _terms(
    group: Weighted, places: Sequence[GradientEdge], exact: bool, together: bool
) -> _Found | None:
    """A term for each z; None where a Q is not positive, or there is none but of parameters."""
    if of_parameters(places) or _nested(places):
        return None
    slopes = torch.autograd.grad(list(group), list(places), list(group.values()), create_graph=True)
    size = max(float(weight.abs().amax()) for weight in group.values())
    (value, weight), *others = group.items()
    terms: list[Term] = []
    clipped, linear = not exact or len(places) > 1, []
    for z, slope in zip(places, slopes, strict=True):
        like = slope.detach()
        Q = _second_derivative(z, slope, size, together)
        if Q is None:
            return None
        if not bool(Q.matrix.any()):
            linear += [z] if bool(like.any()) else []
            continue
        positive = positive_part(Q, size)
        if positive is None:
            return None
        clipped = clipped or positive[1]
        terms.append(
            Term(value, weight, z, like, None, tuple(others), positive[0], chained=not exact)
        )
    found = _Found(terms, clipped, linear)
    return found if terms or linear else None


def _nested(places: Sequence[GradientEdge]) -> bool:
    """Whether one of several tensors is computed from another."""
    if len(places) == 1:
        return False
    behind = reachable([part.node for z in places for part in inputs(z.node)])
    return any(z.node in behind for z in places)


def _second_derivative(
    z: GradientEdge, slope: Tensor, size: float, together: bool
) -> OutputHessian | None:
    def product(u: Tensor) -> Tensor:
        if not slope.requires_grad:
            return torch.zeros_like(u)
        (result,) = torch.autograd.grad(
            slope, [z], u, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return result.detach()

    return measure(product, slope.detach(), size, together)
