"""What the loss's parts count in it: the derivative of the loss with respect to each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..autodiff.nodes import inputs, reachable
from .cut import consumers_first


def total_weights(loss: Tensor, edges: Sequence[GradientEdge]) -> list[Tensor]:
    """The derivative of the loss with respect to what is at each edge, along all paths."""
    if list(edges) == [get_gradient_edge(loss)]:
        return [torch.ones_like(loss)]
    if not edges:
        return []
    return [w.detach() for w in torch.autograd.grad(loss, list(edges), retain_graph=True)]


def direct_weights(loss: Tensor, edges: Sequence[GradientEdge]) -> list[Tensor]:
    r"""The coefficients :math:`w_i` of a loss :math:`\sum_i w_i e_i + c` that is linear in edges.

    An edge may lie behind another, as z does in the loss ``z.exp() - y * z``. Its coefficient is
    then the derivative along all paths without those through others:
    :math:`w_i = dL/de_i - \sum_j w_j\,de_j/de_i`.
    """
    total = dict(zip(edges, total_weights(loss, edges), strict=True))
    behind = reachable([part.node for edge in edges for part in inputs(edge.node)])
    inner = [edge for edge in edges if edge.node in behind]
    direct = {edge: w for edge, w in total.items() if edge not in inner}
    order = {node: i for i, node in enumerate(consumers_first([edge.node for edge in edges]))}
    for edge in sorted(inner, key=lambda edge: order[edge.node]):
        outer = list(direct)
        (through,) = torch.autograd.grad(
            outer, [edge], list(direct.values()), retain_graph=True, allow_unused=True
        )
        direct[edge] = total[edge] if through is None else total[edge] - through
    return [direct[edge] for edge in edges]
