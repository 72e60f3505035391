"""Steps on tables of which a batch uses few rows: closure evaluations are counted in each step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import assert_close, closure_of, mlp, randn
from torch_newton import RegNewton, find_residuals
from torch_newton.kernels.rows import jacobian_of
from torch_newton.step import Path

pytestmark = pytest.mark.usefixtures("float64")

STEPS, MOST = 20, 20

ROWS, USED, WIDTH = 100_000, 400, 3

Made = tuple[list[Tensor], Callable[[], Tensor]]


def numbers(count: int, rows: int, seed: int) -> Tensor:
    return torch.randint(0, rows, (count,), generator=torch.Generator().manual_seed(seed))


def embedding(head: bool) -> Made:
    """A hundred thousand words, of which four hundred occur."""
    torch.manual_seed(0)
    table, net, y = nn.Embedding(ROWS, WIDTH), mlp(WIDTH, 6, 1), randn(USED, 1, seed=3)
    words = numbers(USED, ROWS, 1)
    if head:
        return [*table.parameters(), *net.parameters()], lambda: F.mse_loss(net(table(words)), y)
    return list(table.parameters()), lambda: F.mse_loss(table(words).sum(1, keepdim=True).sin(), y)


def bag(mode: str) -> Made:
    """Bags of three words."""
    torch.manual_seed(0)
    table, net, y = nn.EmbeddingBag(ROWS, WIDTH, mode=mode), mlp(WIDTH, 6, 1), randn(300, 1, seed=3)
    words = numbers(900, ROWS, 1).view(300, 3)
    return [*table.parameters(), *net.parameters()], lambda: F.mse_loss(net(table(words)), y)


def factors(spelling: str) -> Made:
    """1,500 of the entries of a matrix of 2,000 x 2,000 of rank four."""
    torch.manual_seed(0)
    users, items = nn.Embedding(2000, 4), nn.Embedding(2000, 4)
    U, V = users.weight, items.weight
    i, j, y = numbers(1500, 2000, 1), numbers(1500, 2000, 2), randn(1500, seed=3)
    flat = i * 2000 + j
    taken: dict[str, Callable[[], Tensor]] = {
        "embeddings": lambda: (users(i) * items(j)).sum(1),
        "rows": lambda: (U[i] * V[j]).sum(1),
        "einsum": lambda: torch.einsum("nk,nk->n", U[i], V[j]),
        "entries of the product": lambda: (U @ V.T)[i, j],
        "gathered from the product": lambda: (U @ V.T).reshape(-1)[flat],
    }
    return [U, V], lambda: F.mse_loss(taken[spelling](), y)


CASES: dict[str, Callable[[], Made]] = {
    "embedding, network": lambda: embedding(True),
    "embedding alone": lambda: embedding(False),
    "bag, sum": lambda: bag("sum"),
    "bag, mean": lambda: bag("mean"),
    "factors, embeddings": lambda: factors("embeddings"),
    "factors, rows": lambda: factors("rows"),
    "factors, einsum": lambda: factors("einsum"),
    "factors, entries of the product": lambda: factors("entries of the product"),
    "factors, gathered from the product": lambda: factors("gathered from the product"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_step_on_a_large_table_takes_few_evaluations(name: str) -> None:
    params, loss = CASES[name]()
    optimizer = RegNewton(params)
    closure = closure_of(optimizer, loss)
    losses = []
    for _ in range(STEPS):
        losses.append(float(optimizer.step(closure)))
        step = optimizer.last_step
        assert step is not None
        assert step.path is Path.FUNCTION_SPACE
        assert step.closure_calls <= MOST
    assert losses[-1] < 0.2 * losses[0]


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "entries": lambda U, V: (U @ V.T)[[0, 2, 2, 4], [1, 1, 0, 3]],
    "entries of a multiple": lambda U, V: ((2 * U) @ -V.T)[[0, 2, 2, 4], [1, 1, 0, 3]],
    "a grid of entries": lambda U, V: (U @ V.T)[torch.tensor([[0], [3]]), torch.tensor([1, 2])],
    "a mask": lambda U, V: (U @ V.T)[torch.arange(20).view(5, 4) % 3 == 0],
    "flat": lambda U, V: (U @ V.T).flatten()[[0, 5, 5, 19]],
    "gather": lambda U, V: (U @ V.T).gather(1, torch.tensor([[0, 3], [1, 1], [2, 0]])),
    "whole rows": lambda U, V: (U @ V.T)[[0, 2, 2]],
    "with itself": lambda U, V: (U @ U.T)[[0, 2, 2, 4], [1, 1, 2, 3]],
    "by a constant": lambda U, V: (U @ V.detach().T)[[0, 2, 2, 4], [1, 1, 0, 3]],
    "of a transposed one": lambda U, V: (U.T @ V[:, :1].expand(4, 3)[:1].expand(5, 3))[
        [0, 2], [1, 0]
    ],
    "and of another use": lambda U, V: (P := U @ V.T)[[0, 2, 2, 4], [1, 1, 0, 3]] + P[:4, 0],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_rows_of_entries_of_a_product(name: str) -> None:
    U, V = randn(5, 3, seed=1).requires_grad_(), randn(4, 3, seed=2).requires_grad_()
    z = PRODUCTS[name](U, V)
    J = jacobian_of(z, [U, V]).dense()
    expected = []
    for entry in z.reshape(-1):
        found = torch.autograd.grad(
            entry, [U, V], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        expected.append(torch.cat([g.reshape(-1) for g in found]))
    assert_close(J, torch.stack(expected))
    G = find_residuals(PRODUCTS[name](U, V).square().sum()).gauss_newton([U, V]).dense()
    assert_close(G, 2 * J.T @ J)
