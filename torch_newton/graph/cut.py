"""Where a loss ends and its network begins, by the structure of the graph alone.

From values inside a loss, of whose formula nothing is known, one walks back through whatever does
not use a parameter. Where the paths meet in one tensor the loss depends on the parameters through
that tensor, and it can be z. The walk ends at operations that use a parameter: matrix products,
convolutions, a bias that is added. What is found there is z otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import inputs, leaf
from .output_hessian import MAX_OUTPUTS
from .views import SCALES, VIEWS

ELEMENTWISE = {"MulBackward0", "DivBackward0", "ExpBackward0", "LogBackward0", "PowBackward0",
    "PowBackward1", "SoftplusBackward0", "SigmoidBackward0", "ReciprocalBackward0",
    "RsqrtBackward0", "SqrtBackward0", "ClampBackward1", "NegBackward0"}  # fmt: skip
"""Operations through which a parameter of few entries, such as a trained variance, enters a loss.
One that is added is a bias, and belongs to the network."""


@dataclass(frozen=True)
class Cut:
    """Where z may be.

    Attributes:
        single: tensors through which alone the values depend on the network, those nearest to
            the network first.
        frontier: the tensors at which the network ends; trained numbers of the loss included.
    """

    single: list[GradientEdge]
    frontier: list[GradientEdge]


def cut(values: Sequence[GradientEdge]) -> Cut:
    """The cuts behind some values."""
    order = consumers_first([edge.node for edge in values], _ends)
    active = dict.fromkeys(values)
    single: list[GradientEdge] = []
    for node in order:
        for edge in [edge for edge in active if edge.node is node]:
            del active[edge]
        active |= dict.fromkeys(inputs(node))
        if len(active) == 1:
            single += active
    return Cut(single[::-1], list(active))


def consumers_first(
    roots: Iterable[Node], ends: Callable[[Node], bool] = lambda node: False
) -> list[Node]:
    """The nodes behind some, each after all that use it; without `ends` and what is behind them."""
    finished: dict[Node, None] = {}
    opened: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack[-1]
        if node in opened:
            finished.setdefault(stack.pop())
        elif ends(node):
            stack.pop()
        else:
            opened.add(node)
            stack += [edge.node for edge in inputs(node) if edge.node not in opened]
    return list(finished)[::-1]


def _ends(node: Node) -> bool:
    """Whether a node is a leaf or uses a parameter."""
    if leaf(node) is not None:
        return True
    params = [param for edge in inputs(node) if (param := _parameter(edge.node)) is not None]
    if node.name() in ELEMENTWISE:
        # A function of a parameter alone, such as the exponential of log-variances, is no output.
        most = 1 if len(inputs(node)) > 1 else MAX_OUTPUTS
        return any(param.numel() > most for param in params)
    return bool(params)


def _parameter(node: Node) -> Tensor | None:
    """The parameter that a node is, or is a view of."""
    while leaf(node) is None:
        edges = inputs(node)
        if len(edges) != 1 or not (node.name() in VIEWS or node.name() in SCALES):
            return None
        node = edges[0].node
    return leaf(node)
