r"""Entries of a product of two tables, taken by number: matrix factorizations.

:math:`(U V^T)_{ij}` is made of row i of U and row j of V alone. Behind the product itself every
sample would meet every row; at what is taken of it each has its own two.
"""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import operands, output_shape, saved
from .tables import TAKES, positions
from .use import Rows, Use
from .views import Views

RESHAPES = {"ReshapeAliasBackward0", "UnsafeViewBackward0", "ViewBackward0"}
"""Views that leave the order of the entries as it is."""


def indexed_product(node: Node, views: Views) -> list[Use] | None:
    """The uses of tables A and B in entries of A @ B; None where a node takes anything else."""
    source = operands(node)[0] if node.name() in TAKES else None
    product = source
    while product is not None and product.node.name() in RESHAPES:
        product = operands(product.node)[0]
    if source is None or product is None or product.node.name() != "MmBackward0":
        return None
    shape, seen = output_shape(product.node), output_shape(source.node)
    if shape is None or seen is None:
        return None
    taken = positions(node, seen).reshape(-1)
    numbers = taken // shape[1], taken % shape[1]
    uses: list[Use] = []
    for argument, edge in enumerate(operands(product.node)):
        if edge is None:
            continue
        view = views.at((edge.node, edge.output_nr))
        other = saved(product.node, "mat2" if argument == 0 else "self")
        # Row i of A and column j of B; a row of the parameter, where it is seen in this way.
        if view is None or other is None or view.transposed != (argument == 1):
            return None
        if view.shape is None or len(view.shape) != 2:
            return None
        rows = _rows((other.T if argument == 0 else other)[numbers[1 - argument]])
        uses.append(
            Use(
                view.param,
                GradientEdge(node, 0),
                rows,
                None,
                scale=view.scale,
                index=numbers[argument],
                number=view.shape[argument],
            )
        )
    return uses


def _rows(others: Tensor) -> Rows:
    """Of a cotangent of n entries, each times the row that it was multiplied by, n x k."""

    def rows(cotangent: Tensor) -> Tensor:
        return cotangent.reshape(-1, 1) * others

    return rows
