"""Recurrent networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.helpers import randn
from tests.trust.architectures.build import fit
from tests.trust.architectures.case import Case, Problem

SEQUENCES = (4, 5, 2)


class Last(nn.Module):
    """A network's last output, through a linear layer."""

    def __init__(self, net: nn.Module, width: int) -> None:
        super().__init__()
        self.net, self.head = net, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[0][:, -1])


class Each(Last):
    """All outputs of a network."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[0])


class Packed(Last):
    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([5, 4, 2, 2]), batch_first=True)
        return self.head(pad_packed_sequence(self.net(packed)[0], batch_first=True)[0][:, 1])


class Cell(nn.Module):
    """A cell in a loop in Python."""

    def __init__(self, cell: nn.Module, width: int = 3) -> None:
        super().__init__()
        self.cell, self.head, self.width = cell, nn.Linear(width, 1), width

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Hand(nn.Module):
    """Elman's network by two linear layers and a learned start."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(2, 3, bias=False)
        self.start, self.head = nn.Parameter(torch.zeros(3)), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start.expand(len(x), 3)
        for t in range(x.shape[1]):
            h = torch.tanh(self.inner(h) + self.outer(x[:, t]))
        return self.head(h)


class StateSpace(nn.Module):
    """A linear recurrence with gates that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.into, self.head = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        decay, inputs = torch.sigmoid(self.gate(x)), self.into(x)
        h = torch.zeros(len(x), 3).to(x)
        for t in range(x.shape[1]):
            h = decay[:, t] * h + (1 - decay[:, t]) * inputs[:, t]
        return self.head(h)


class Translator(nn.Module):
    """An encoder whose state starts a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(2, 3, batch_first=True)
        self.decoder = nn.GRU(1, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.encoder(x)
        return self.head(self.decoder(torch.ones(len(x), 3, 1).to(x), state)[0])


def last(net: nn.Module, width: int = 3) -> Problem:
    return fit(Last(net, width), randn(*SEQUENCES, seed=2))


def of(net: nn.Module) -> Problem:
    return fit(net, randn(*SEQUENCES, seed=2))


CASES = [
    Case("RNN", lambda: last(nn.RNN(2, 3, batch_first=True))),
    Case("RNN relu", lambda: last(nn.RNN(2, 3, batch_first=True, nonlinearity="relu"))),
    Case("RNN two layers", lambda: last(nn.RNN(2, 3, num_layers=2, batch_first=True))),
    Case("LSTM", lambda: last(nn.LSTM(2, 3, batch_first=True)), quick=True),
    Case("LSTM two layers", lambda: last(nn.LSTM(2, 2, num_layers=2, batch_first=True), 2)),
    Case(
        "LSTM both directions", lambda: last(nn.LSTM(2, 2, bidirectional=True, batch_first=True), 4)
    ),
    Case("LSTM projected", lambda: last(nn.LSTM(2, 4, proj_size=2, batch_first=True), 2)),
    Case(
        "LSTM dropout", lambda: last(nn.LSTM(2, 2, num_layers=2, dropout=0.3, batch_first=True), 2)
    ),
    Case("LSTM each output", lambda: of(Each(nn.LSTM(2, 3, batch_first=True), 3))),
    Case("LSTM packed", lambda: of(Packed(nn.LSTM(2, 3, batch_first=True), 3))),
    Case("GRU", lambda: last(nn.GRU(2, 3, batch_first=True))),
    Case("GRU two layers", lambda: last(nn.GRU(2, 2, num_layers=2, batch_first=True), 2)),
    Case(
        "GRU both directions", lambda: last(nn.GRU(2, 2, bidirectional=True, batch_first=True), 4)
    ),
    Case("GRU without bias", lambda: last(nn.GRU(2, 3, bias=False, batch_first=True))),
    Case("RNNCell", lambda: of(Cell(nn.RNNCell(2, 3)))),
    Case("LSTMCell", lambda: of(Cell(nn.LSTMCell(2, 3)))),
    Case("GRUCell", lambda: of(Cell(nn.GRUCell(2, 3)))),
    Case("recurrence by hand", lambda: of(Hand())),
    Case("gated linear recurrence", lambda: of(StateSpace())),
    Case("encoder and decoder", lambda: of(Translator())),
]
