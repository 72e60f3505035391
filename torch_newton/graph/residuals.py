"""The outputs z that a loss is made of, found in its autograd graph.

From the loss one walks back through operations that are linear, and stops at the first convex
one: the square of a mean of squares, the log-softmax of a cross-entropy. Its input is a part of
z. Then the loss is a sum of terms, each a convex function of its own z with a positive weight,
so that Q = (second derivative of the loss in z) is positive semidefinite and J^T Q J is the
generalized Gauss-Newton matrix of the loss as its author wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import inputs, saved
from ..autodiff.products import jacobian_at
from ..linalg.flat import flatten, unflatten
from ..linalg.operators import LinearOperator, symmetric

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

NORMS = {"LinalgVectorNormBackward0", "NormBackward0"}


@dataclass(frozen=True)
class Term:
    r"""A part :math:`w \cdot c(z)` of the loss, with c convex entry by entry of its output.

    Attributes:
        value: where c(z) is in the graph.
        weight: w, the derivative of the loss with respect to c(z).
        z: where z is in the graph.
        gradient: the derivative of the term in its z.
        curvature: its second derivative in each entry of z, where that has been read off the
            graph; of z's shape or broadcast to it.
    """

    value: GradientEdge
    weight: Tensor
    z: GradientEdge
    gradient: Tensor
    curvature: Tensor | None = None

    @property
    def like(self) -> Tensor:
        """A tensor of z's shape, dtype and device."""
        return self.gradient

    def slope(self) -> Tensor:
        """The derivative of this term in its z, with a graph; shaped like z."""
        (slope,) = torch.autograd.grad([self.value], [self.z], [self.weight], create_graph=True)
        return slope

    def hessian_product(self) -> Callable[[Tensor], Tensor]:
        """U -> Q u for this term, u shaped like z."""
        slope = self.slope()

        def product(u: Tensor) -> Tensor:
            if not slope.requires_grad:  # the term is linear in z
                return torch.zeros_like(u)
            (result,) = torch.autograd.grad(
                slope, [self.z], u, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return result.detach()

        return product


@dataclass(frozen=True)
class Residuals:
    """The outputs z of a loss.

    Attributes:
        terms: the convex terms that the loss is a sum of.
        unrecognised: names of the nodes at which the walk gave up; empty where the terms are
            the whole loss.
    """

    terms: list[Term]
    unrecognised: list[str]

    @property
    def rows(self) -> int:
        """R, the number of entries of z over all terms."""
        return sum(term.like.numel() for term in self.terms)

    def jacobian(self, params: Sequence[Tensor]) -> LinearOperator:
        """J, R x P: the derivative of z in the parameters."""
        return jacobian_at(
            [term.z for term in self.terms], [term.like for term in self.terms], params
        )

    def hessian(self) -> LinearOperator:
        """Q, R x R, block-diagonal over the terms.

        Raises:
            ValueError: no term of the loss was recognised.
        """
        if not self.terms:
            raise ValueError(
                "no term of the loss was recognised as a convex function of outputs: the walk "
                f"back from the loss ended at {', '.join(self.unrecognised)}"
            )
        products = [term.hessian_product() for term in self.terms]
        like = [term.like for term in self.terms]

        def product(u: Tensor) -> Tensor:
            pieces = unflatten(u, like)
            return flatten(f(piece) for f, piece in zip(products, pieces, strict=True))

        return symmetric(self.rows, product, dtype=like[0].dtype, device=like[0].device)

    def gauss_newton(self, params: Sequence[Tensor]) -> LinearOperator:
        """G = J^T Q J, P x P.

        Raises:
            ValueError: no term of the loss was recognised.
        """
        Q, J = self.hessian(), self.jacobian(params)
        return J.T @ Q @ J


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
    """Terms whose c(z) also feeds another term, whose slope their weight then contains."""
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


def _only_input(node: Node) -> GradientEdge | None:
    """The input of a function of one argument; None where the target needs a gradient too."""
    edges = inputs(node)
    return edges[0] if len(edges) == 1 else None


def _squared(node: Node) -> GradientEdge | None:
    """x ** 2 and torch.square(x); of |x|_2 ** 2 the entries of x rather than their norm."""
    if float(saved(node, "exponent")) != 2.0:
        return None
    norm = _norm(node)
    return inputs(node)[0] if norm is None else _only_input(norm)


def _norm(node: Node) -> Node | None:
    """The Euclidean norm that a square is the square of, where it is one."""
    (base,) = inputs(node)
    if base.node.name() not in NORMS:
        return None
    order = saved(base.node, "ord", saved(base.node, "p"))
    return base.node if order is None or float(order) == 2.0 else None


def _logits(node: Node) -> GradientEdge | None:
    """The logits of a binary cross-entropy, unless a weight inside it is negative."""
    weights = [saved(node, "weight"), saved(node, "pos_weight")]
    if any(weight is not None and bool((weight < 0).any()) for weight in weights):
        return None
    return _only_input(node)


def _product_with_itself(node: Node) -> GradientEdge | None:
    """x * x, and x @ x for a vector."""
    edges = inputs(node)
    return edges[0] if len(edges) == 2 and edges[0] == edges[1] else None


Square = tuple[Tensor, Tensor]
"""r and q of a term whose derivative in z is q r, and whose second derivative is q."""


def _square(node: Node, weight: Tensor) -> Square | None:
    """z and 2 w, for the square of each entry and for the sum of all squares."""
    norm = _norm(node) if node.name() == "PowBackward0" else None
    z = saved(node if norm is None else norm, "self")
    known = isinstance(z, Tensor) and (weight.shape == z.shape or weight.numel() == 1)
    return (z, 2 * weight) if known else None


def _mean_square(node: Node, weight: Tensor) -> Square | None:
    """z minus its target and 2 w, or 2 w / R for the mean."""
    z, target = saved(node, "self"), saved(node, "target")
    if not (isinstance(z, Tensor) and isinstance(target, Tensor)):
        return None
    if node.next_functions[0][0] is None:  # the target is what needs a gradient
        z, target = target, z
    return z - target, weight * (2 / z.numel() if saved(node, "reduction") == MEAN else 2)


MEAN = 1
"""How PyTorch numbers reduction="mean"."""


@dataclass(frozen=True)
class Curved:
    """A function c that is convex, or concave, in one of its inputs.

    Attributes:
        find: the input, z.
        sign: 1 where c is convex, -1 where it is concave.
        square: where c is a square, what node and w say about it; without it, or where it
            gives None, autograd is asked.
    """

    find: Callable[[Node], GradientEdge | None]
    sign: int = 1
    square: Callable[[Node, Tensor], Square | None] | None = None


CURVED: dict[str, Curved] = {
    "PowBackward0": Curved(_squared, square=_square),
    "MulBackward0": Curved(_product_with_itself, square=_square),
    "DotBackward0": Curved(_product_with_itself, square=_square),
    "MseLossBackward0": Curved(_only_input, square=_mean_square),
    "HuberLossBackward0": Curved(_only_input),
    "SmoothL1LossBackward0": Curved(_only_input),
    "BinaryCrossEntropyWithLogitsBackward0": Curved(_logits),
    "LogSoftmaxBackward0": Curved(_only_input, -1),
}
"""Functions at which the walk ends with a term. One line adds a loss."""
