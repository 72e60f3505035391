"""Recurrent networks, attention, and tables of words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.callbacks.setups.build import (
    LABELS,
    SERIES,
    WORDS,
    classifier,
    regression,
    train,
)
from tests.callbacks.setups.setup import BY_DIFFERENCES, KERNELS, Setup


class Last(nn.Module):
    """The last state of a recurrent network, through a linear layer."""

    def __init__(self, cells: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.cells, self.head = cells, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Packed(Last):
    """Sequences of different lengths."""

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([5, 4, 4, 3, 2, 1]), batch_first=True)
        return self.head(pad_packed_sequence(self.cells(packed)[0], batch_first=True)[0].mean(1))


class Cell(nn.Module):
    """A cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0])


class Stateful(Last):
    """Begins where it ended on the last batch, as with truncated backpropagation in time."""

    state: Any = None

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.cells(x, self.state)
        self.state = tuple(part.detach() for part in last)
        return self.head(states[:, -1])


class Words(nn.Module):
    """A table of words, and a layer after their mean."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.head = table, nn.Linear(4, 3)

    def forward(self, words: Tensor) -> Tensor:
        vectors = self.table(words)
        return self.head(vectors if vectors.ndim == 2 else vectors.mean(1))


class Weighted(nn.Module):
    """Bags of different sizes, with a learned weight for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(7, 4, mode="sum"), nn.Linear(4, 3)
        self.weights = nn.Parameter(torch.ones(30))

    def forward(self, words: Tensor) -> Tensor:
        starts = torch.tensor([0, 3, 9, 15, 20, 28])
        return self.head(self.table(words.flatten(), starts, self.weights))


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layer(self.table(words)).mean(1))


class Decoder(nn.Module):
    """Reads what was encoded, a part of which is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerDecoderLayer(8, 2, 8, 0.0, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words)
        causal = nn.Transformer.generate_square_subsequent_mask(5)
        read = self.layer(x, x.flip(1), causal, memory_key_padding_mask=words == 0)
        return self.head(read.mean(1))


class Gpt(nn.Module):
    """Causal attention, with the table of words as the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 8), nn.Embedding(5, 8)
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words) + self.places(torch.arange(words.shape[1]))
        q, k, v = (
            part.unflatten(-1, (2, 4)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (x + self.out(mixed.transpose(1, 2).flatten(2))) @ self.words.weight.T


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(10, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x.flatten(1))[None, None].chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)[0, 0, :, :1]


def next_word(net: Any, batch: Any) -> Tensor:
    (words,) = batch
    return F.cross_entropy(net(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())


def sparse(params: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SparseAdam(list(params), lr)


def recurrent(kind: Any, **options: Any) -> Any:
    return regression(Last(kind(2, 4, batch_first=True), **options), SERIES)


SETUPS = [
    Setup("lstm", lambda: recurrent(nn.LSTM), quick=True),
    Setup("gru", lambda: recurrent(nn.GRU)),
    Setup("rnn", lambda: recurrent(nn.RNN)),
    Setup("two directions, packed", lambda: regression(
        Packed(nn.LSTM(2, 2, batch_first=True, bidirectional=True)), SERIES)),
    Setup("stacked, with dropout between", lambda: regression(
        Last(nn.GRU(2, 4, 2, batch_first=True, dropout=0.3)), SERIES)),
    Setup("a cell in a loop", lambda: regression(Cell(), SERIES)),
    Setup("a state carried on", lambda: regression(
        Stateful(nn.LSTM(2, 4, batch_first=True)), SERIES)),
    Setup("transformer without dropout", lambda: classifier(Encoder(), WORDS), quick=True),
    Setup("transformer with dropout", lambda: classifier(Encoder(0.1), WORDS)),
    Setup("transformer decoder", lambda: classifier(Decoder(), WORDS)),
    Setup("gpt with tied table", lambda: train(Gpt(), next_word, (WORDS,)), quick=True),
    Setup("fused attention", lambda: regression(Attention(), SERIES)),
    Setup("embedding", lambda: classifier(Words(nn.Embedding(7, 4)), WORDS)),
    Setup("embedding of bounded norm", lambda: classifier(
        Words(nn.Embedding(7, 4, padding_idx=0, max_norm=1.0)), WORDS)),
    Setup("embedding bag", lambda: classifier(Words(nn.EmbeddingBag(7, 4)), WORDS),
          warns=BY_DIFFERENCES),
    Setup("weighted bags", lambda: classifier(Weighted(), WORDS), warns=BY_DIFFERENCES),
    Setup("sparse embedding", lambda: train(
        nn.Embedding(7, 3, sparse=True),
        lambda net, b: F.cross_entropy(net(b[0]).mean(1), b[1]), (WORDS, LABELS),
        optimizer=sparse), nan=KERNELS, warns=BY_DIFFERENCES, quick=True),
]  # fmt: skip
