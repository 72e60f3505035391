"""Functions c that are convex, or concave, in one of their inputs z, by the names of their nodes.

A walk back from a loss ends at them (`residuals`). A loss is added by one line of `CURVED`: how z
is found among the node's inputs and, where c is a square, what the node has saved of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import inputs, leaf, saved
from .bounds import Centred, norm_bound, variance_hessian
from .output_hessian import OutputHessian
from .softmax import softmax_hessian

NORMS = {"LinalgVectorNormBackward0", "NormBackward0", "NormBackward1"}
"""Nodes of norms, of which the square of the Euclidean one is a sum of squares."""

ROOTS = {"DistBackward0", "SqrtBackward0", "StdBackward0"}
"""Other roots. Of their squares what is inside says more than the root as a number does."""

MEAN = 1
"""How PyTorch numbers reduction="mean"."""

Square = tuple[Tensor, Tensor]
"""r and q of a term whose derivative in z is q r, and whose second derivative is q."""


@dataclass(frozen=True)
class Curved:
    """A function c that is convex, or concave, in one of its inputs.

    Attributes:
        find: the input, z.
        sign: 1 where c is convex, -1 where it is concave.
        square: where c is a square, what node and w say about it; without it, or where it
            gives None, autograd is asked.
        formula: the second derivative from node and w, where autograd's loses digits.
        bound: where c is no square but lies below one that touches it, what node and w say about
            the second derivative of that; of a variance, which is one, its own.
    """

    find: Callable[[Node], GradientEdge | None]
    sign: int = 1
    square: Callable[[Node, Tensor], Square | None] | None = None
    formula: Callable[[Node, Tensor], OutputHessian | None] | None = None
    bound: Callable[[Node, Tensor], OutputHessian | Centred] | None = None


def _only_input(node: Node) -> GradientEdge | None:
    """The input of a function of one argument; None where the target needs a gradient too."""
    edges = inputs(node)
    return edges[0] if len(edges) == 1 else None


def _of_outputs(node: Node) -> GradientEdge | None:
    """The input, unless that is a parameter: a bound of a penalty on one would not be better."""
    z = _only_input(node)
    return None if z is None or leaf(z.node) is not None else z


def _euclidean(node: Node) -> GradientEdge | None:
    """The vector of which a norm is the Euclidean one."""
    return _of_outputs(node) if float(saved(node, "ord", saved(node, "p"))) == 2.0 else None


def base(node: Node) -> GradientEdge | None:
    """The x of x ** 2, torch.square(x), x * x, and x @ x for a vector; None for anything else."""
    edges, name = inputs(node), node.name()
    if name == "PowBackward0":
        return edges[0] if float(saved(node, "exponent")) == 2.0 else None
    same = len(edges) == 2 and edges[0] == edges[1]
    return edges[0] if same and name in {"MulBackward0", "DotBackward0"} else None


def _squared(node: Node) -> GradientEdge | None:
    """x of its square; of |x|_2 ** 2 the entries of x rather than their norm."""
    x = base(node)
    if x is None or x.node.name() in ROOTS:
        return None
    norm = _norm(node)
    return x if norm is None else _only_input(norm)


def _norm(node: Node) -> Node | None:
    """The Euclidean norm that a square is the square of, where it is one."""
    x = base(node)
    if x is None or x.node.name() not in NORMS:
        return None
    order = saved(x.node, "ord", saved(x.node, "p"))
    return x.node if order is None or float(order) == 2.0 else None


def _logits(node: Node) -> GradientEdge | None:
    """The logits of a binary cross-entropy, unless a weight inside it is negative."""
    weights = [saved(node, "weight"), saved(node, "pos_weight")]
    if any(weight is not None and bool((weight < 0).any()) for weight in weights):
        return None
    return _only_input(node)


def _square(node: Node, weight: Tensor) -> Square | None:
    """z and 2 w, for the square of each entry and for the sum of all squares."""
    norm = _norm(node)
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


CURVED: dict[str, Curved] = {
    "PowBackward0": Curved(_squared, square=_square),
    "MulBackward0": Curved(_squared, square=_square),
    "DotBackward0": Curved(_squared, square=_square),
    "MseLossBackward0": Curved(_only_input, square=_mean_square),
    "HuberLossBackward0": Curved(_only_input),
    "SmoothL1LossBackward0": Curved(_only_input),
    "BinaryCrossEntropyWithLogitsBackward0": Curved(_logits),
    "LogSoftmaxBackward0": Curved(_only_input, -1, formula=softmax_hessian),
    "AbsBackward0": Curved(_of_outputs, bound=norm_bound),
    "DistBackward0": Curved(_euclidean, bound=norm_bound),
    "LinalgVectorNormBackward0": Curved(_euclidean, bound=norm_bound),
    "NormBackward1": Curved(_euclidean, bound=norm_bound),
    "VarBackward0": Curved(_of_outputs, bound=variance_hessian),
    "StdBackward0": Curved(_of_outputs, bound=variance_hessian),
}
"""Functions at which the walk back from a loss ends with a term."""
