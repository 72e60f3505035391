"""PyTorch still gives its nodes the names by which the package knows them."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from tests.contract.files import files_that_name
from tests.contract.graphs import NODES, ONLY_BY_ATEN, WRITTEN
from torch_newton.autodiff.nodes import inputs
from torch_newton.graph.cut import ELEMENTWISE
from torch_newton.graph.readers import READERS
from torch_newton.graph.residuals import CURVED, LINEAR, NORMS, ROOTS
from torch_newton.graph.views import SCALES, VIEWS
from torch_newton.graph.walk import CONCAVE

TABLES: dict[str, tuple[Collection[str], str]] = {
    "READERS": (
        READERS,
        "parameters that enter here have no per-sample Jacobian, and function space is lost or "
        "costs a product for each of their entries",
    ),
    "VIEWS": (
        VIEWS,
        "a parameter that is seen through this view is not found, and has no per-sample Jacobian",
    ),
    "SCALES": (
        SCALES,
        "a parameter times a number is not found, and has no per-sample Jacobian",
    ),
    "LINEAR": (
        LINEAR,
        "the walk from the loss to its residuals ends here, so that there is no Gauss-Newton "
        "matrix and no function space",
    ),
    "CURVED": (
        CURVED,
        "this loss is no longer known to be convex in its outputs, so that there is no "
        "Gauss-Newton matrix and no function space",
    ),
    "CONCAVE": (
        CONCAVE,
        "a loss inside this increasing function, such as the root of a mean of squares, has no "
        "second derivative in closed form, and is measured",
    ),
    "ELEMENTWISE": (
        ELEMENTWISE,
        "a trained number that enters the loss here is taken for a part of the network",
    ),
    "NORMS": (
        NORMS,
        "the square of this norm is read as one residual, the norm, in place of the vector's "
        "entries",
    ),
    "ROOTS": (
        ROOTS,
        "the square of such a root is read as that of a number, not of what is inside",
    ),
}
"""The tables of names, and what is lost with an entry."""

NAMED = sorted({(table, name) for table, (names, _) in TABLES.items() for name in names})


def _id(value: str) -> str:
    return f"{value} (made by aten alone)" if value in ONLY_BY_ATEN else value


@pytest.mark.parametrize(("table", "name"), NAMED, ids=_id)
def test_an_expression_makes_the_node(table: str, name: str) -> None:
    assert name in NODES, (
        f"{table} has the new name {name}: add an expression that makes it to NODES in "
        "tests/contract/graphs.py"
    )
    node = NODES[name]().grad_fn
    assert node is not None
    assert node.name() == name, (
        f"the expression that made {name} makes {node.name()} in this PyTorch. If no other makes "
        f"it, {table}[{name!r}] matches nothing: {TABLES[table][1]}; "
        f"{files_that_name(name)}"
    )


def test_no_expression_is_left_over() -> None:
    known = {name for _, name in NAMED}
    assert set(NODES) <= known, f"no table has {sorted(set(NODES) - known)} any more: delete them"
    assert set(NODES) >= ONLY_BY_ATEN


@pytest.mark.parametrize("what", WRITTEN)
def test_what_users_write_becomes_nodes_that_are_known(what: str) -> None:
    write, expected = WRITTEN[what]
    node = write().grad_fn
    names: list[str] = []
    while node is not None and node.name() != "torch::autograd::AccumulateGrad":
        names.append(node.name())
        edges = inputs(node)
        # A bias comes before the weight, and a leaf before what is interesting.
        inner = [edge.node for edge in edges if inputs(edge.node)]
        node = inner[0] if inner else None
    assert names == expected, (
        f"{what} becomes {names} in this PyTorch: the tables must know these names, or the "
        "residuals or the per-sample Jacobian of such models are not read; torch_newton/graph"
    )
