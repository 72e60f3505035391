"""The outputs z that a loss is made of, found in its autograd graph.

From the loss one walks back through operations that are linear, and stops at the first convex
one: the square of a mean of squares, the log-softmax of a cross-entropy. Its input is a part of
z. Then the loss is a sum of terms, each a convex function of its own z with a positive weight,
so that Q = (second derivative of the loss in z) is positive semidefinite and J^T Q J is the
generalized Gauss-Newton matrix of the loss as its author wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import inputs
from .convex import CURVED, NORMS, Curved
from .guard import attempt, warn_unreadable
from .terms import Residuals, Term

__all__ = ["CURVED", "LINEAR", "NORMS", "Residuals", "Term", "find_residuals", "read_residuals"]

LINEAR = {
    "AddBackward0", "AddBackward1", "AliasBackward0", "CatBackward0", "CloneBackward0",
    "DivBackward0", "DivBackward1", "ExpandBackward0", "IndexBackward0", "IndexSelectBackward0",
    "MaskedFillBackward0",
    "MeanBackward0", "MeanBackward1", "MulBackward0", "MulBackward1", "NegBackward0",
    "NllLoss2DBackward0", "NllLossBackward0", "PermuteBackward0", "ReshapeAliasBackward0",
    "RsubBackward0", "RsubBackward1", "SelectBackward0", "SliceBackward0", "SqueezeBackward0",
    "SqueezeBackward1", "SqueezeBackward2", "StackBackward0", "SubBackward0", "SubBackward1",
    "SumBackward0", "SumBackward1", "TBackward0", "ToCopyBackward0", "TransposeBackward0",
    "UnbindBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
}  # fmt: skip
"""Nodes that are linear (strictly: affine) in the one input that needs a gradient."""


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
    candidates: list[tuple[GradientEdge, GradientEdge, Curved]] = []
    unrecognised: list[str] = []
    seen: set[tuple[Node, int]] = set()
    stack = [torch.autograd.graph.get_gradient_edge(loss)]
    while stack:
        edge = stack.pop()
        node, name = edge.node, edge.node.name()
        if (node, edge.output_nr) in seen:
            continue
        seen.add((node, edge.output_nr))
        curved = CURVED.get(name)
        z = None if curved is None else curved.find(node)
        if curved is not None and z is not None:
            candidates.append((edge, z, curved))
        elif _is_linear(node, name):
            stack += reversed(inputs(node))
        else:
            unrecognised.append(name)
    terms: list[Term] = []
    for term in _terms(loss, candidates):
        if isinstance(term, Term):
            terms.append(term)
        else:
            unrecognised.append(term)
    inner = _inside_others(terms)
    unrecognised += [term.value.node.name() for term in inner]
    return Residuals([term for term in terms if term not in inner], unrecognised)


def _inside_others(terms: Sequence[Term]) -> list[Term]:
    """Terms whose c(z) also feeds another term, so that their weight contains that one's slope."""
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


def _is_linear(node: Node, name: str) -> bool:
    if name == "MulBackward0":
        return len(inputs(node)) == 1
    if name == "DivBackward0":
        # The denominator, the second input, must be a constant.
        return len(node.next_functions) < 2 or node.next_functions[1][0] is None
    return name in LINEAR


def _terms(
    loss: Tensor, candidates: Sequence[tuple[GradientEdge, GradientEdge, Curved]]
) -> Iterator[Term | str]:
    """The terms; of those whose weight has the wrong sign the names."""
    if not candidates:
        return
    weights = _weights(loss, [edge for edge, _, _ in candidates])
    for weight, (edge, z, curved) in zip(weights, candidates, strict=True):
        if not bool((weight >= 0 if curved.sign > 0 else weight <= 0).all()):
            yield edge.node.name()
            continue
        square = None if curved.square is None else curved.square(edge.node, weight)
        if square is not None:
            residual, curvature = square
            yield Term(edge, weight, z, curvature * residual, curvature)
            continue
        # Cut off at z: another term's z may lie further back on the same path.
        (gradient,) = torch.autograd.grad([edge], [z], [weight], retain_graph=True)
        yield Term(edge, weight, z, gradient.detach())


def _weights(loss: Tensor, edges: Sequence[GradientEdge]) -> list[Tensor]:
    """The derivative of the loss with respect to what is at each edge."""
    if list(edges) == [torch.autograd.graph.get_gradient_edge(loss)]:
        return [torch.ones_like(loss)]
    return [w.detach() for w in torch.autograd.grad(loss, list(edges), retain_graph=True)]
