"""The products that a combination of outputs is a sum of, against its gradient by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import assert_close, randn
from torch_newton import find_residuals
from torch_newton.graph import outer_products
from torch_newton.graph.blocks import Block
from torch_newton.graph.outer_products import Drawn, draw
from torch_newton.graph.random_root import output_roots, random_slopes

pytestmark = pytest.mark.usefixtures("float64")


class Tied(nn.Module):
    """A table whose transpose is also the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(randn(7, 4, seed=1))
        self.hidden = nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.hidden(self.table[tokens]).tanh() @ self.table.T
        return x


class Derivative(nn.Module):
    """A network plus its derivative, as in a differential equation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.last = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        u = self.last(self.net(x))
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        found: Tensor = u + du[:, :1] * du[:, 1:]
        return found


class Several(nn.Module):
    """Matrices W_j, one for each group of columns, on either side of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Parameter(randn(3, 4, 2, seed=1))
        self.left = nn.Parameter(randn(3, 5, 6, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(self.left, torch.bmm(x, self.right))


class Scaled(nn.Module):
    """Weights and biases that are multiplied by numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(4, 3, seed=1))
        self.bias = nn.Parameter(randn(4, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.5, self.bias * 0.1)


def image(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules, nn.Tanh(), nn.Flatten())


TOKENS = torch.tensor([[0, 3, 3], [1, 6, 0], [2, 2, 2], [5, 4, 1]])
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), randn(6, 3), 2),
    "sequence": (lambda: nn.Linear(3, 2), randn(4, 5, 3), 1),
    "convolution": (
        lambda: image(nn.Conv2d(2, 3, 3, 2, 1, 2), nn.Conv2d(3, 2, 2)), randn(3, 2, 9, 8), 2
    ),
    "groups": (lambda: image(nn.Conv2d(4, 6, 3, groups=2)), randn(3, 4, 5, 5), 1),
    "one dimension": (lambda: image(nn.Conv1d(2, 3, 3, 2, padding=1)), randn(3, 2, 9), 1),
    "transposed convolution with output padding": (
        lambda: image(nn.ConvTranspose2d(2, 3, 3, dilation=2, output_padding=1)),
        randn(3, 2, 5, 4), 2,
    ),
    "transposed": (
        lambda: image(nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2)), randn(3, 4, 5, 4), 2
    ),
    "three dimensions": (lambda: image(nn.Conv3d(1, 2, 2)), randn(2, 1, 3, 3, 3), 2),
    "batch norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), randn(6, 3), 3),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), randn(6, 3), 3),
    "attention": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), randn(3, 5, 4), 8
    ),
    "added": (lambda: Added(), randn(4, 5, 3), 1),
    "added, and used without": (lambda: Added(again=1.0), randn(4, 5, 3), 2),
    "added to a multiple": (lambda: Added(alpha=3.0), randn(4, 5, 3), 2),
    "recurrent": (lambda: Recurrent(), randn(4, 5, 3), 1),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)), TOKENS, 2),
    "padding": (lambda: nn.Sequential(nn.Embedding(7, 4, 0), nn.Linear(4, 2)), TOKENS, 2),
    "tied": (Tied, TOKENS, 2),
    "derivative": (Derivative, randn(6, 2), 3),
    "several": (Several, randn(3, 6, 4), 2),
    "scaled": (Scaled, randn(6, 3), 1),
}  # fmt: skip
"""Networks, what they are given, and how many blocks they have."""


class Added(nn.Module):
    """A bias that is added by an operation of its own."""

    def __init__(self, again: float = 0.0, alpha: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(randn(2, 3, seed=1)), nn.Parameter(randn(2, seed=2))
        self.again, self.alpha = again, alpha

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        z = torch.add(self.bias, y, alpha=self.alpha)
        return z.tanh() + self.again * y if self.again else z.tanh()


class Recurrent(nn.Module):
    """A weight that is used at each time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 2)
        for t in range(x.shape[1]):
            h = self.cell(torch.cat([x[:, t], h], 1)).tanh()
        return h


def combination(z: Tensor, params: Sequence[Tensor], seed: int = 0) -> tuple[Drawn, list[Tensor]]:
    """A draw, and the gradient that autograd finds for it."""
    terms = find_residuals(z.square().mean()).of_outputs
    roots = output_roots(terms)
    assert roots is not None
    slopes = random_slopes(roots, terms, seed)
    gradients = torch.autograd.grad(
        [term.z for term in terms], list(params), slopes, retain_graph=True
    )
    return draw(terms, roots, params, seed), list(gradients)


def total(drawn: Drawn, block: Block) -> Tensor:
    """The sum of all products of a block."""
    found = torch.zeros(block.joined_shape)
    for p in drawn.of(block):
        if p.left is None:
            assert p.index is not None
            found[0].index_add_(0, p.index, p.right[0] * p.weight)
        else:
            found += p.left.mT @ p.right * p.weight
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_products_add_up_to_the_gradient(name: str) -> None:
    torch.manual_seed(0)
    make, x, blocks = NETWORKS[name]
    net = make()
    params = list(net.parameters())
    drawn, gradients = combination(net(x), params)
    assert len(drawn.blocks) == blocks
    assert sorted(i for block in drawn.blocks for i in block.members) == list(range(len(params)))
    for block in drawn.blocks:
        if not block.factored:
            assert_close(drawn.gradients[block.weight], gradients[block.weight])
            continue
        parts = block.parted(total(drawn, block))
        for i, part in zip(block.members, parts, strict=True):
            assert_close(part, gradients[i].reshape(-1))


def test_of_what_has_no_products_the_gradient_is_kept() -> None:
    w = randn(3, 4, seed=1).requires_grad_()
    v = randn(3, seed=2).requires_grad_()
    drawn, gradients = combination(randn(5, 4) @ (w.sin() * v[:, None].exp()).T, [w, v])
    assert [block.factored for block in drawn.blocks] == [False, False]
    for i in (0, 1):
        assert_close(drawn.gradients[i], gradients[i])


def test_of_many_products_a_sample_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = nn.Linear(3, 2), randn(400, 3)
    drawn, _ = combination(net(x), list(net.parameters()))
    (q,) = drawn.of(*drawn.blocks)
    monkeypatch.setattr(outer_products, "MAX_ROWS", 100)
    (p,) = drawn.of(*drawn.blocks)
    assert p.right.shape == (1, 100, 4)
    assert p.weight == 4.0
    ratio = float(p.right.square().sum() * p.weight / q.right.square().sum())
    assert ratio == pytest.approx(1.0, abs=0.3)


def test_a_bias_of_two_weights_or_a_weight_of_two_biases_makes_one_block_of_one_pair() -> None:
    net, other = nn.Linear(3, 4), nn.Linear(3, 4)
    other.bias = net.bias
    x = randn(5, 3)
    params = [net.weight, net.bias, other.weight]
    drawn, gradients = combination(net(x) * other(x), params)
    for block in drawn.blocks:
        for i, part in zip(block.members, block.parted(total(drawn, block)), strict=True):
            assert_close(part, gradients[i].reshape(-1))
