"""The walk back from a loss, through what is linear or increasing, to functions that are convex.

It ends at edges of which the loss is a linear function. Behind such an end are the terms: the end
itself, a mean of squares say, or several where an increasing function of them is taken, such as
the root of a mean of squares or the logarithm of a sum of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import inputs, leaf, operands, output_shape, saved
from .convex import CURVED, NORMS, Curved, base
from .cut import ELEMENTWISE

LINEAR = {
    "AddBackward0", "AddBackward1", "AliasBackward0", "CatBackward0", "CloneBackward0",
    "DivBackward0", "DivBackward1", "ExpandBackward0", "GatherBackward0", "IndexBackward0",
    "IndexSelectBackward0",
    "MaskedFillBackward0", "MaskedSelectBackward0",
    "MeanBackward0", "MeanBackward1", "MulBackward0", "MulBackward1", "NansumBackward0",
    "NegBackward0",
    "NllLoss2DBackward0", "NllLossBackward0", "PermuteBackward0", "ReshapeAliasBackward0",
    "RsubBackward0", "RsubBackward1", "SelectBackward0", "SliceBackward0", "SqueezeBackward0",
    "SqueezeBackward1", "SqueezeBackward2", "StackBackward0", "SubBackward0", "SubBackward1",
    "SumBackward0", "SumBackward1", "TBackward0", "ToCopyBackward0", "TransposeBackward0",
    "UnbindBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
    "WhereBackward0",
}  # fmt: skip
"""Nodes that are linear (strictly: affine) in the one input that needs a gradient."""

CONCAVE = {"LogBackward0", "Log1PBackward0", "Log2Backward0", "Log10Backward0", "SqrtBackward0"}
"""Increasing and concave functions, entry by entry. With a weight that is not negative, the
tangent at the present point lies above them: the curvature of what is inside, times the slope, is
an upper bound of theirs (it is what iteratively reweighted least squares takes)."""


@dataclass(frozen=True)
class Candidate:
    """A function that may be a term: where it is, its z and what is known of it."""

    edge: GradientEdge
    z: GradientEdge
    curved: Curved


@dataclass(frozen=True)
class End:
    """Where the walk along linear operations ended.

    Attributes:
        edge: the loss is linear in what is there.
        candidates: what may be terms behind it; none where it was not understood.
        concave: edges behind it at which the weight must not be negative.
    """

    edge: GradientEdge
    candidates: tuple[Candidate, ...] = ()
    concave: tuple[GradientEdge, ...] = ()

    @property
    def chained(self) -> bool:
        """Whether the terms are inside a function of them."""
        return [candidate.edge for candidate in self.candidates] != [self.edge]


def walk(start: GradientEdge) -> list[End]:
    """The ends of all paths from an edge, each once."""
    ends: list[End] = []
    seen: set[GradientEdge] = set()
    stack = [start]
    while stack:
        edge = stack.pop()
        if edge in seen:
            continue
        seen.add(edge)
        node, name = edge.node, edge.node.name()
        square_of = base(node)
        if square_of is not None and square_of.node.name() == "SqrtBackward0":
            stack += inputs(square_of.node)  # what the root is taken of
            continue
        if name == "PowBackward0" and is_scalar(edge) and inputs(node)[0].node.name() not in NORMS:
            # A power of a sum of squares says more by its squares than as one number.
            end = _through(edge)
            if end.candidates:
                ends.append(end)
                continue
        curved = CURVED.get(name)
        z = None if curved is None else curved.find(node)
        if curved is not None and z is not None:
            ends.append(End(edge, (Candidate(edge, z, curved),)))
        elif _is_linear(node, name):
            stack += reversed(inputs(node))
        else:
            ends.append(_through(edge))
    return ends


def _through(edge: GradientEdge) -> End:
    """Terms inside an increasing concave function, or any function of scalars."""
    node, edges = edge.node, inputs(edge.node)
    power = float(saved(node, "exponent")) if node.name() == "PowBackward0" else None
    if base(node) is not None:
        edges, power = edges[:1], 2.0
    concave = node.name() in CONCAVE or (power is not None and 0 < power < 1)
    of_norms = power is not None and 1 <= power <= 2
    if not edges or not (concave or of_norms or _is_of_scalars(edge)):
        return End(edge)
    inner = [end for part in edges for end in walk(part)]
    candidates = dict.fromkeys(found for end in inner for found in end.candidates)
    if not all(end.candidates for end in inner) or of_parameters([c.z for c in candidates]):
        return End(edge)
    # |z| ** p is a concave function of the square of |z| up to p = 2, where it is linear.
    if of_norms and all(found.curved.bound is not None for found in candidates):
        concave = True
    elif of_norms and not _is_of_scalars(edge):
        return End(edge)
    bounds = [found for end in inner for found in end.concave]
    return End(edge, tuple(candidates), (*((edge,) if concave else ()), *bounds))


def of_parameters(places: Iterable[GradientEdge]) -> bool:
    """Whether tensors are simple functions of parameters alone, without data: no outputs."""
    stack = [edge.node for edge in places]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if leaf(node) is None:
            parts = operands(node)
            if None in parts or node.name() not in LINEAR | CONCAVE | CURVED.keys() | ELEMENTWISE:
                return False
            new = {edge.node for edge in inputs(node)} - seen
            seen |= new
            stack += new
    return True


def is_scalar(edge: GradientEdge) -> bool:
    """Whether what is at an edge is one number."""
    shape = output_shape(edge.node, edge.output_nr)
    return shape is not None and shape.numel() == 1


def _is_of_scalars(edge: GradientEdge) -> bool:
    return is_scalar(edge) and all(is_scalar(part) for part in inputs(edge.node))


def _is_linear(node: Node, name: str) -> bool:
    if name == "MulBackward0":
        return len(inputs(node)) == 1
    if name == "DivBackward0":
        # The denominator, the second input, must be a constant.
        return len(node.next_functions) < 2 or node.next_functions[1][0] is None
    return name in LINEAR
