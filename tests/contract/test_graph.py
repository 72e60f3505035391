"""Edges, leaves and shapes of autograd's graph are where `autodiff.nodes` looks for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from tests.contract.graphs import NODES, tensor
from torch_newton.autodiff.nodes import custom_classes, reachable

NODES_PY = "autodiff/nodes.py"
ARGUMENTS = {
    "AddBackward0": 2, "AddmmBackward0": 3, "BaddbmmBackward0": 3, "BmmBackward0": 2,
    "ConvolutionBackward0": 3, "DivBackward0": 2, "DotBackward0": 2, "EmbeddingBackward0": 1,
    "MmBackward0": 2, "MseLossBackward0": 2, "MulBackward0": 2, "MvBackward0": 2,
    "NativeLayerNormBackward0": 3, "SubBackward0": 2,
}  # fmt: skip
"""Operations of which the package counts the arguments, and how many tensors they take."""


def _node(result: Tensor) -> Node:
    assert result.grad_fn is not None
    return result.grad_fn


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_node_has_an_edge_for_each_argument(name: str) -> None:
    edges = _node(NODES[name]()).next_functions
    if name == "DivBackward0":  # by a number: its second argument may be left out
        assert edges[0][0] is not None
        assert all(parent is None for parent, _ in edges[1:])
        return
    assert len(edges) == ARGUMENTS[name], (
        f"next_functions of {name} no longer has a place for each tensor argument, (None, 0) for "
        f"constants: a reader would take the bias for the weight; {NODES_PY}, graph/readers.py"
    )


def test_edges_are_in_the_order_of_the_arguments() -> None:
    bias, weight = tensor(4), tensor(3, 4)
    edges = _node(torch.addmm(bias, torch.ones(2, 3), weight)).next_functions
    leaves = [None if parent is None else getattr(parent, "variable", None) for parent, _ in edges]
    assert leaves[0] is bias, f"a bias is not the first argument of addmm any more; {NODES_PY}"
    assert edges[1] == (None, 0), f"a constant is no longer (None, 0) among the edges; {NODES_PY}"
    assert leaves[2] is weight, f"a weight is not the third argument of addmm any more; {NODES_PY}"


def test_a_leaf_is_an_accumulating_node_that_holds_its_tensor() -> None:
    x = tensor(3)
    (edge,) = _node(x.exp()).next_functions
    leaf = edge[0]
    assert leaf is not None
    assert leaf.name() == "torch::autograd::AccumulateGrad", (
        f"the node at a leaf is named {leaf.name()}: no parameter is found in any graph; {NODES_PY}"
    )
    assert leaf.variable is x, (
        f"a leaf's node no longer has its tensor as .variable: no parameter is found; {NODES_PY}"
    )
    assert get_gradient_edge(x).node is leaf


def test_a_node_is_one_object() -> None:
    node = _node(tensor(3).exp().sin())
    assert node.next_functions[0][0] is node.next_functions[0][0], (
        "a node is another Python object each time, so that walks over a graph do not end; "
        f"{NODES_PY}"
    )


def test_equal_edges_are_equal_and_hashable() -> None:
    x = tensor(3).exp()
    made, got = GradientEdge(_node(x), 0), get_gradient_edge(x)
    assert made == got, (
        "GradientEdge(node, 0) differs from get_gradient_edge: cotangents are looked up by edge; "
        "graph/per_sample.py, graph/residuals.py"
    )
    assert hash(made) == hash(got)


def test_autograd_takes_edges_as_outputs_and_as_inputs() -> None:
    x = tensor(3)
    inner = x.exp()
    outer = inner.square()
    (found,) = torch.autograd.grad(
        [GradientEdge(_node(outer), 0)], [GradientEdge(_node(inner), 0)], [torch.ones(3)]
    )
    assert torch.equal(found, 2 * inner), (
        "torch.autograd.grad no longer takes gradient edges: cotangents inside a graph cannot be "
        "read; graph/per_sample.py"
    )


def test_a_node_knows_the_shape_of_its_result() -> None:
    result = tensor(2, 3).sum(0)
    metadata = getattr(_node(result), "_input_metadata", None)
    assert metadata is not None, (
        "nodes have no _input_metadata: views of parameters are not understood (graph/views.py), "
        f"and batches of backward passes are not fitted to the caches (autodiff/batched.py); "
        f"{NODES_PY}"
    )
    assert [tuple(entry.shape) for entry in metadata] == [(3,)], (
        f"_input_metadata no longer has the shape of a node's result; {NODES_PY}"
    )


def test_a_backward_pass_without_a_derivative_ends_in_a_node_of_that_name() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        @once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * grad

    x = tensor(3)
    (gradient,) = torch.autograd.grad(Once.apply(x).square().sum(), x, create_graph=True)
    names = {node.name() for node in reachable([_node(gradient)])}
    assert "torch::autograd::Error" in names, (
        f"once_differentiable leaves {sorted(names)}: a product with the Hessian would silently "
        "leave out the part behind it; autodiff/products.py"
    )


def test_many_backward_passes_are_taken_at_once() -> None:
    x = tensor(3)
    (rows,) = torch.autograd.grad([x.square()], [x], [torch.eye(3)], is_grads_batched=True)
    assert torch.equal(rows, torch.diag(2 * x)), (
        "is_grads_batched no longer stacks the results: exact Hessians and rows take a pass "
        "each; autodiff/batched.py and the graph room"
    )


def test_writing_through_data_goes_unnoticed_and_the_version_counts_the_rest() -> None:
    x = tensor(3)
    loss = x.square().sum()
    x.data.mul_(2)
    assert x._version == 0, (
        "writing through .data now counts as a change: the graph of the loss is lost as soon as "
        "a trial step moves the parameters; closure/snapshots.py"
    )
    torch.autograd.grad(loss, x, retain_graph=True)
    torch.autograd.graph.increment_version([x])
    assert x._version == 1, "increment_version does not count; closure/snapshots.py"
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x)


def test_the_version_of_a_gradient_tells_that_it_was_written_to() -> None:
    x = tensor(3)
    x.square().sum().backward()
    assert x.grad is not None
    before = x.grad._version
    x.square().sum().backward()
    assert x.grad._version > before, (
        "backward() adds to .grad unseen: a closure that calls torch.autograd.backward is not "
        "refused any more; closure/evaluator.py"
    )


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def test_the_node_of_a_custom_function_knows_its_class() -> None:
    result = Doubled.apply(tensor(3)).exp()
    assert custom_classes([_node(result)]) == [Doubled], (
        "_forward_cls of a custom function's node is no longer its class: CurvatureMonitor would "
        f"not find gradient reversal, and log eigenvalues of no Hessian; {NODES_PY}"
    )
