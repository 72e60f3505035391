"""Every operation through which a parameter is read, against autograd row by row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers import randn
from torch_newton import find_residuals
from torch_newton.graph.ladder import read_jacobian
from torch_newton.graph.loss_curvature import output_hessian_root
from torch_newton.graph.readers import READERS, find_uses
from torch_newton.graph.reading import Request, Rung
from torch_newton.graph.views import SCALES, VIEWS
from torch_newton.linalg.flat import flatten

pytestmark = pytest.mark.usefixtures("float64", "held")

Graph = tuple[Tensor, list[Tensor]]

OFF_GRAPH = (Rung.BLOCKS, Rung.SEARCHED)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def check(z: Tensor, params: Iterable[Tensor], unread: int = 0) -> None:
    """The rows that are read are those of autograd, one by one, scaled by the root of Q = 2."""
    params = list(params)
    residuals = find_residuals(z.square().sum())
    (term,) = residuals.terms
    root = output_hessian_root(term)
    assert root is not None
    assert len(find_uses([term.z.node], params).obstacles) == unread
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


def network(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """One head, between the positions of each sample alone."""

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=bias) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q(x) @ self.k(x).mT).softmax(-1)
        return weights @ self.v(x)


def of(net: nn.Module, *shape: int) -> Graph:
    return net(randn(*shape)), list(net.parameters())


def embedding() -> Graph:
    net = network(nn.Embedding(9, 3, padding_idx=2), nn.Tanh(), nn.Flatten(), nn.Linear(15, 1))
    return net(torch.randint(0, 9, (8, 5))), list(net.parameters())


def functional(make: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Graph:
    params = [randn(*shape, seed=20 + i).requires_grad_() for i, shape in enumerate(shapes)]
    return make(*params), params


X, POINTS = randn(6, 4, 3), randn(10, 3)
LAYERS = torch.nn.TransformerEncoderLayer

GRAPHS: dict[str, Callable[[], Graph]] = {
    "a matrix as a tensor of another class": lambda: functional(
        lambda w: torch.tanh(POINTS @ torch.ops.aten.alias(w)), (3, 2)
    ),
    "layer norm": lambda: of(
        network(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1)), 7, 3
    ),
    "layer norm over two dimensions": lambda: of(
        network(nn.LayerNorm([4, 3]), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)), 6, 4, 3
    ),
    "layer norm on sequences": lambda: of(
        network(nn.Linear(3, 5), nn.LayerNorm(5), nn.Flatten(), nn.Tanh(), nn.Linear(20, 1)),
        6, 4, 3,
    ),
    "scale": lambda: functional(lambda w, s: torch.tanh(POINTS @ w) * s, (3, 2), (2,)),
    "scale on the left": lambda: functional(lambda w, s: s * torch.tanh(POINTS @ w), (3, 2), (2,)),
    "one number": lambda: functional(lambda w, s: s * torch.tanh(POINTS @ w), (3, 1), ()),
    "one number, as a vector": lambda: functional(
        lambda w, s: (s * torch.tanh(POINTS @ w))[:, 0], (3, 1), (1,)
    ),
    "squared scale": lambda: functional(lambda w, s: s * s * torch.tanh(POINTS @ w), (3, 2), (2,)),
    "added and subtracted": lambda: functional(
        lambda a, b, c: c - (torch.tanh(POINTS + a) - b), (3,), (3,), (3,)
    ),
    "bias of channels": lambda: functional(
        lambda w, b: torch.tanh(torch.einsum("bti,ij->bjt", X, w) + b[None, :, None]).sum((1, 2)),
        (3, 5), (5,),
    ),
    "linear layer on sequences": lambda: of(
        network(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=False), nn.Flatten()), 6, 4, 3
    ),
    "sequence first": lambda: functional(
        lambda w, b: torch.tanh(X.transpose(0, 1) @ w + b).sum((0, 2)), (3, 5), (5,)
    ),
    "einsum": lambda: functional(
        lambda w: torch.einsum("bti,oi->bto", X, w).tanh().sum((1, 2)), (5, 3)
    ),
    "batched matrix products": lambda: functional(
        lambda w: torch.bmm(X, w.expand(6, 3, 3)).tanh().sum((1, 2)), (3, 3)
    ),
    "batched matrix products from the left": lambda: functional(
        lambda w: torch.bmm(w.expand(6, 4, 4), X).tanh().sum((1, 2)), (4, 4)
    ),
    "batched, with a transpose": lambda: functional(
        lambda w: torch.bmm(X, w.T.expand(6, 3, 3)).tanh().sum((1, 2)), (3, 3)
    ),
    "baddbmm": lambda: functional(
        lambda b, w: torch.baddbmm(b, X, w.expand(6, 3, 2)).tanh().sum((1, 2)), (2,), (3, 2)
    ),
    "attention": lambda: of(network(nn.Linear(3, 4), Attention(4), nn.Flatten()), 5, 6, 3),
    "attention without bias": lambda: of(network(Attention(3, bias=False), nn.Flatten()), 5, 6, 3),
    "transformer layer": lambda: of(
        network(LAYERS(4, 2, 6, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(24, 1)),
        5, 6, 4,
    ),
    "embedding": embedding,
    "convolution": lambda: of(
        network(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(24, 1)), 7, 2, 8
    ),
    "two convolutions": lambda: of(
        network(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2, stride=2), nn.Flatten()),
        4, 1, 6, 6,
    ),
    "vector of weights": lambda: functional(
        lambda w, c: torch.tanh(POINTS @ w) @ c, (3, 5), (5,)
    ),
    "reversed order": lambda: functional(lambda w: torch.tanh(POINTS @ w).flip(0), (3, 2)),
    "every second row": lambda: functional(lambda w: torch.tanh(POINTS @ w)[::2], (3, 2)),
    "chosen rows": lambda: functional(
        lambda w: torch.tanh(POINTS[:4] @ w).sum(1)[[0, 1, 3]], (3, 2)
    ),
    "matrix over a constant": lambda: functional(
        lambda w, s: torch.tanh(POINTS @ (w / math.sqrt(7)).T) * s, (2, 3), (2,)
    ),
    "matrix times a constant": lambda: functional(
        lambda w, v: torch.tanh(POINTS @ (0.3 * w)) @ -v, (3, 2), (2, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_rows_are_those_of_autograd(name: str) -> None:
    check(*GRAPHS[name]())


SMALL: dict[str, Callable[[], Graph]] = {
    "exponential of a parameter": lambda: functional(
        lambda w, s: s.exp() * torch.tanh(POINTS @ w), (3, 2), (2,)
    ),
    "entries of a vector": lambda: functional(
        lambda w, p: torch.tanh(POINTS @ w)[:, 0] * p[0] + p[1], (3, 1), (2,)
    ),
    "unpacked vector": lambda: functional(
        lambda w, p: next(a * torch.tanh(POINTS @ w)[:, 0] + b for a, b in [p.unbind()]),
        (3, 1),
        (2,),
    ),
    "rows of a matrix": lambda: functional(
        lambda w, p: torch.tanh(POINTS @ w) @ p[:2] + (POINTS @ w) @ p[2:], (3, 2), (4, 1)
    ),
    "PReLU": lambda: of(network(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 1)), 8, 3),
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
    "one matrix for each sample": lambda: functional(
        lambda w: torch.bmm(X, w).tanh().sum((1, 2)), (6, 3, 5)
    ),
    "samples mixed": lambda: functional(
        lambda w: randn(10, 10, seed=5) @ torch.tanh(POINTS @ w), (3, 30)
    ),
    "normalised weights": lambda: functional(
        lambda w: torch.tanh(POINTS @ F.normalize(w, dim=0)), (3, 30)
    ),
}


OBSTACLES = {
    "one matrix for each sample": "BmmBackward0",
    "samples mixed": "MmBackward0",
    "normalised weights": "DivBackward0",
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
    for make in [*GRAPHS.values(), *SMALL.values()]:
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
