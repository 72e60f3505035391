"""Every operation through which a parameter is read, against autograd row by row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import Node

from tests.graph.graphs import COMPUTED, GRAPHS, POINTS, TABLES, Graph, functional, network
from tests.helpers import randn
from torch_newton import find_residuals
from torch_newton.graph.ladder import read_jacobian
from torch_newton.graph.loss_curvature import output_hessian_root
from torch_newton.graph.readers import READERS, find_uses
from torch_newton.graph.reading import Request, Rung
from torch_newton.graph.views import SCALES, VIEWS
from torch_newton.linalg.flat import flatten

pytestmark = pytest.mark.usefixtures("float64", "held")

OFF_GRAPH = (Rung.BLOCKS, Rung.SEARCHED, Rung.ACROSS, Rung.COMPOSED)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def node_of(z: Tensor) -> Node:
    assert z.grad_fn is not None
    return z.grad_fn


def check(
    z: Tensor, params: Iterable[Tensor], unread: int = 0, beyond: int = 0
) -> tuple[Rung, ...]:
    """The rows that are read are those of autograd, one by one, scaled by the root of Q = 2.

    Args:
        z: the outputs.
        params: the parameters.
        unread: how many parameters no reader knows, nor anything else that reads off the graph.
        beyond: how many no reader knows, but something else reads.

    Returns:
        On which rung each is read.
    """
    params = list(params)
    residuals = find_residuals(z.square().sum())
    (term,) = residuals.terms
    root = output_hessian_root(term)
    assert root is not None
    assert len(find_uses([term.z.node], params).obstacles) == unread + beyond
    reading = read_jacobian(Request([term], params, [root]))
    found = reading.jacobian
    assert found is not None
    assert reading.failure is None
    assert reading.rung in OFF_GRAPH
    others = {i for i, rung in enumerate(reading.rungs) if rung not in OFF_GRAPH}
    assert reading.obstacles.keys() == others
    assert len(others) >= unread
    J = math.sqrt(2) * torch.stack(
        [
            flatten(
                torch.autograd.grad(
                    entry, params, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            )
            for entry in z.reshape(-1)
        ]
    )
    size = float(J.abs().max())
    assert size > 1e-3
    torch.testing.assert_close(found.dense(), J, rtol=0, atol=1e-12 * size)
    torch.testing.assert_close(found.gram(), J @ J.T, rtol=0, atol=1e-12 * size**2 * J.shape[1])
    v, u = randn(J.shape[1]), randn(J.shape[0], seed=9)
    torch.testing.assert_close(found.matvec(v), J @ v, rtol=1e-11, atol=1e-11 * size)
    torch.testing.assert_close(found.rmatvec(u), J.T @ u, rtol=1e-11, atol=1e-11 * size)
    return reading.rungs


@pytest.mark.parametrize("name", GRAPHS)
def test_rows_are_those_of_autograd(name: str) -> None:
    check(*GRAPHS[name]())


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_tables_are_those_of_autograd(name: str) -> None:
    z, params = TABLES[name]()
    check(z, params, beyond=len(find_uses([node_of(z)], params).obstacles))


@pytest.mark.parametrize("name", COMPUTED)
def test_rows_of_parameters_of_which_weights_are_computed(name: str) -> None:
    z, params = COMPUTED[name]()
    rungs = check(z, params, beyond=len(find_uses([node_of(z)], params).obstacles))
    assert Rung.COMPOSED in rungs


def test_both_halves_of_an_operator_network() -> None:
    branch, trunk = (network(nn.Linear(n, 5), nn.Tanh(), nn.Linear(5, 4)) for n in (3, 1))
    z = torch.einsum("bi,ni->bn", branch(POINTS), trunk(randn(6, 1)))
    rungs = check(z, [*branch.parameters(), *trunk.parameters()])
    assert set(rungs[:4]) == {Rung.BLOCKS}
    assert set(rungs[4:]) == {Rung.ACROSS}


SMALL: dict[str, Callable[[], Graph]] = {
    "angle to a parameter": lambda: functional(
        lambda w, s: torch.atan2(torch.tanh(POINTS @ w), s), (3, 2), (2,)
    ),
    "maximum with a parameter": lambda: functional(
        lambda w, s: torch.maximum(torch.tanh(POINTS @ w), s), (3, 2), (2,)
    ),
    "power of a parameter": lambda: functional(
        lambda w, s: (2 + torch.tanh(POINTS @ w)) ** s, (3, 2), (2,)
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_parameters_in_unknown_roles_are_differentiated_by_columns(name: str) -> None:
    check(*SMALL[name](), unread=1)


@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 2),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dims=st.integers(1, 2),
)
def test_convolutions_of_every_kind(
    channels: tuple[int, int],
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    dims: int,
) -> None:
    kind = nn.Conv2d if dims == 2 else nn.Conv1d
    first, second = (groups * c for c in channels)
    net = kind(first, second, kernel[:dims], stride[:dims], padding[:dims], dilation[:dims], groups)
    z = net(randn(3, first, *(6, 7)[:dims])).tanh().flatten(1)
    check(z @ randn(z.shape[1], 2, seed=4), net.parameters())


@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    batch=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    bias=st.booleans(),
    outputs=st.integers(1, 3),
)
def test_networks_of_every_shape(
    widths: list[int], batch: list[int], bias: bool, outputs: int
) -> None:
    sizes = [2, *widths, outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.Tanh()]
    net = network(*layers[:-1])
    z = net(randn(*batch, 2, seed=3))
    check(z.flatten(1).sum(1) if len(batch) > 1 else z, net.parameters())


def laplacian(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    total = torch.zeros(len(x))
    for i in range(x.shape[1]):
        total = total + torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i]
    return total


def test_residuals_over_several_networks() -> None:
    u, k = (network(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)) for _ in range(2))
    x = randn(9, 2)
    z = k(x)[:, 0] * laplacian(u, x) + torch.exp(u(x)[:, 0])
    check(z, [*u.parameters(), *k.parameters()])


def test_a_value_and_its_derivative_by_forward_mode() -> None:
    """The last weight is used with its entries in L by the one, and in R by the other."""
    net = network(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    x = randn(9, 2)
    value, derivative = torch.func.jvp(net, (x,), (torch.ones_like(x),))
    check((value * derivative)[:, 0], net.parameters())


def test_a_value_and_its_derivatives_by_vmap() -> None:
    net = network(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    params = dict(net.named_parameters())

    def value(x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(net, params, (x[None],))[0, 0]
        return result

    x = randn(9, 2)
    hessian = torch.func.vmap(torch.func.hessian(value))(x)
    slope = torch.func.vmap(torch.func.jacfwd(value))(x)
    z = hessian.diagonal(dim1=1, dim2=2).sum(1) + slope.sum(1)
    check(z, net.parameters(), beyond=1)  # the last bias is multiplied by a number first


def test_a_coefficient_of_a_differential_equation() -> None:
    u = network(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    conductivity = torch.tensor(0.3, requires_grad=True)
    x = randn(9, 2)
    check(conductivity * laplacian(u, x) + u(x)[:, 0], [*u.parameters(), conductivity])


def test_layer_norm_inside_a_differential_equation() -> None:
    u = network(nn.Linear(2, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1))
    z = laplacian(u, randn(9, 2))
    residuals = find_residuals(z.square().sum())
    root = output_hessian_root(residuals.terms[0])
    assert root is not None
    found = read_jacobian(Request(residuals.terms, list(u.parameters()), [root])).jacobian
    expected = residuals.jacobian(list(u.parameters())).dense() * math.sqrt(2)
    assert found is not None
    assert torch.allclose(found.dense(), expected, atol=1e-12)


def test_long_chains_of_operations_are_walked_without_recursion() -> None:
    w = randn(3, 2).requires_grad_()
    z = torch.tanh(POINTS @ w)
    for _ in range(3000):
        z = -z
    check(z, [w])


UNREADABLE: dict[str, Callable[[], Graph]] = {
    "maximum with each unit": lambda: functional(
        lambda w: torch.maximum(POINTS[:, :, None], w).tanh().sum((1, 2)), (3, 30)
    ),
    "samples mixed": lambda: functional(
        lambda w: randn(10, 10, seed=5) @ torch.tanh(POINTS @ w), (3, 30)
    ),
    "angle to each unit": lambda: functional(
        lambda w: torch.atan2(POINTS[:, :, None], w).tanh().sum((1, 2)), (3, 30)
    ),
}


OBSTACLES = {
    "maximum with each unit": "MaximumBackward0",
    "samples mixed": "MmBackward0",
    "angle to each unit": "Atan2Backward0",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_large_parameters_in_unknown_roles_are_reported(name: str) -> None:
    z, params = UNREADABLE[name]()
    (term,) = find_residuals(z.square().sum()).terms
    root = output_hessian_root(term)
    assert root is not None
    reading = read_jacobian(Request([term], params, [root], max_rowwise=z.numel()))
    assert reading.rungs == (Rung.ROWS,)
    assert OBSTACLES[name] in reading.obstacles[0]
    reading = read_jacobian(Request([term], params, [root], max_rowwise=z.numel() - 1))
    assert reading.jacobian is None
    assert reading.rungs == (Rung.NONE,)
    assert reading.left_out == (0,)
    assert OBSTACLES[name] in reading.obstacles[0]
    assert reading.complaint(params) is None


def test_every_reader_and_view_is_met_by_a_graph_above() -> None:
    """Fails where a release of PyTorch renames a node that `readers` or `views` knows."""
    met: set[str] = set()
    for make in [*GRAPHS.values(), *COMPUTED.values(), *TABLES.values()]:
        z, _ = make()
        assert z.grad_fn is not None
        stack, seen = [z.grad_fn], {z.grad_fn}
        while stack:
            node = stack.pop()
            met.add(node.name())
            new = {parent for parent, _ in node.next_functions if parent is not None} - seen
            seen |= new
            stack += new
    rare = {"CloneBackward0", "SplitBackward0", "SqueezeBackward0", "SqueezeBackward1"}
    assert (set(READERS) | set(VIEWS) | set(SCALES)) - rare <= met
