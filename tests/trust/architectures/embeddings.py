"""Tables of vectors, looked up by number."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import randn
from tests.trust.architectures.build import fit
from tests.trust.architectures.case import Case, Problem

WORDS = torch.tensor([[1, 2, 3], [0, 3, 3], [4, 1, 0], [2, 2, 5]])

ONCE = "PyTorch has no second derivative of it"


def words(table: nn.Module) -> Problem:
    """Four sentences of three words of a table of six; the word 6 does not occur."""
    return fit(nn.Sequential(table, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)), WORDS)


class Tied(nn.Module):
    """A bigram model whose output layer is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(6, 4), nn.Linear(4, 4)

    def forward(self, words: Tensor) -> Tensor:
        return torch.tanh(self.hidden(self.table(words))) @ self.table.weight.T


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(6, 3), nn.Embedding(3, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, words: Tensor) -> Tensor:
        z = self.table(words) + self.positions(torch.arange(3))
        return self.head(torch.tanh(z).mean(1))


class Factors(nn.Module):
    """Ratings as products of vectors, and an offset for each user and item."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(5, 3), nn.Embedding(4, 3)
        self.offsets = nn.Embedding(5, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(1) + self.offsets(user)[:, 0]


class Weighted(nn.Module):
    """A bag with a learned weight for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.weights = nn.EmbeddingBag(6, 3, mode="sum"), nn.Parameter(torch.rand(4, 3))

    def forward(self, words: Tensor) -> Tensor:
        return torch.tanh(self.bag(words, per_sample_weights=self.weights))


def language_model() -> Problem:
    labels = torch.tensor([2, 3, 3, 5, 1, 0])
    words = torch.tensor([1, 2, 0, 3, 4, 1])
    return fit(Tied(), words, criterion=lambda z: F.cross_entropy(z, labels))


CASES = [
    Case("Embedding", lambda: words(nn.Embedding(7, 3)), quick=True),
    Case(
        "Embedding padding_idx",
        lambda: words(nn.Embedding(7, 3, padding_idx=0)),
        unprobed="the row of the padding counts as constant",
    ),
    Case(
        "Embedding scale_grad_by_freq",
        lambda: words(nn.Embedding(7, 3, scale_grad_by_freq=True)),
        refused="scale_grad_by_freq=False",
    ),
    Case(
        "Embedding max_norm",
        lambda: words(nn.Embedding(7, 3, max_norm=1.0)),
        refused="changes the parameters in place",
    ),
    Case("Embedding frozen", lambda: words(nn.Embedding.from_pretrained(torch.randn(7, 3)))),
    Case("EmbeddingBag mean", lambda: words(nn.EmbeddingBag(7, 3)), differences=ONCE),
    Case("EmbeddingBag sum", lambda: words(nn.EmbeddingBag(7, 3, mode="sum")), differences=ONCE),
    Case("EmbeddingBag max", lambda: words(nn.EmbeddingBag(7, 3, mode="max")), differences=ONCE),
    Case("EmbeddingBag weighted", lambda: fit(Weighted(), WORDS), differences=ONCE),
    Case("Embedding tied to the output", language_model),
    Case("positional embedding", lambda: fit(Positions(), WORDS)),
    Case(
        "one-hot",
        lambda: fit(
            nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1)),
            F.one_hot(WORDS, 6).to(torch.float64),
        ),
    ),
    Case(
        "matrix factorization by Embedding",
        lambda: fit(Factors(), torch.tensor([0, 1, 2, 3, 3, 0]), torch.tensor([1, 0, 2, 3, 1, 3])),
    ),
    Case(
        "EmbeddingBag with offsets",
        lambda: fit(
            nn.EmbeddingBag(7, 3), torch.tensor([1, 2, 4, 5, 4, 3]), torch.tensor([0, 2, 3])
        ),
        differences=ONCE,
    ),
    Case("table by index", lambda: fit(Indexed(), WORDS)),
]


class Indexed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 3))

    def forward(self, words: Tensor) -> Tensor:
        return torch.tanh(self.table[words]).sum(1) + randn(3, seed=9)
