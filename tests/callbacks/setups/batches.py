"""Batches that are not a pair of tensors."""

from __future__ import annotations

import threading
from collections import UserDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from tests.callbacks.setups.build import LABELS, SERIES, Module, X, Y, mlp, squared, train
from tests.callbacks.setups.setup import ALL, Setup, Training
from tests.helpers import generator

Pair = namedtuple("Pair", ["inputs", "targets"])


@dataclass
class Graph:
    """A graph with some numbers that are not tensors."""

    nodes: Tensor
    targets: Tensor
    name: str = "g"
    number: int = 6


class Encoding(UserDict):  # type: ignore[type-arg]
    """Like the BatchEncoding of a tokenizer: a dictionary with attributes, moved by `to`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getstate__(self) -> Any:
        return {"data": self.data}

    def __setstate__(self, state: Any) -> None:
        self.data = state["data"]

    def to(self, device: Any) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


class Locked:
    """Of a class of its own, with something in it that cannot be copied."""

    def __init__(self) -> None:
        self.lock, self.x = threading.Lock(), X


class Labelled(torch.Tensor):
    """A subclass of Tensor, which keeps its class through operations."""


class Stream(Module):
    """Each batch is a generator, which is exhausted when it has been read."""

    def training_step(self, batch: Any) -> Any:
        x, y = (torch.stack(part) for part in zip(*batch, strict=True))
        return super().training_step((x, y))


class Augmented(Module):
    """Noise is added in place when a batch arrives, and more in the step."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 0.1 * torch.randn(batch[0].shape), batch[1]

    def training_step(self, batch: Any) -> Any:
        batch[0].add_(0.1 * torch.rand(batch[0].shape))
        return super().training_step(batch)


class Streams:
    """An epoch of two batches, each a generator of samples."""

    def __iter__(self) -> Iterator[Any]:
        return ((pair for pair in zip(X, Y + i, strict=True)) for i in range(2))


def inputs_and_targets(net: Any, batch: Any) -> Tensor:
    return F.mse_loss(net(batch["inputs"]["values"][0]), batch["targets"])


def ragged(net: Any, batch: Any) -> Tensor:
    """A list of sequences of different lengths."""
    return (
        torch.stack([net(rows).mean(0) - y for rows, y in zip(*batch, strict=True)]).pow(2).mean()
    )


def packed(net: Any, batch: Any) -> Tensor:
    return net(batch)[0].data.square().mean()


def drawn(net: Any, batch: Any) -> Tensor:
    """The batch is a seed."""
    x = torch.randn(6, 4, generator=generator(int(batch)))
    return F.mse_loss(net(x), x.sum(1, keepdim=True))


def words(net: Any, batch: Any) -> Tensor:
    """The batch is text."""
    x = torch.tensor([[float(ord(c)) for c in word] for word in batch]) / 100
    return net(x).square().mean()


def numpys(net: Any, batch: Any) -> Tensor:
    return F.mse_loss(net(torch.from_numpy(batch["x"])), torch.from_numpy(batch["y"]))


def encoded(net: Any, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch.input_ids.float()), batch["labels"])


def as_it_is(batch: Any) -> DataLoader[Any]:
    """A loader that makes no tensors of it."""
    return DataLoader([batch], batch_size=None, collate_fn=lambda same: same)


def batch_of(thing: Any, loss: Any, net: nn.Module | None = None) -> Training:
    return train(net or mlp(), loss, thing)


SETUPS = [
    Setup("nested dictionary", lambda: batch_of(
        {"inputs": {"values": [X, None], "id": "a"}, "targets": Y}, inputs_and_targets)),
    Setup("named tuple", lambda: batch_of(
        Pair(X, Y), lambda net, b: F.mse_loss(net(b.inputs), b.targets))),
    Setup("data class", lambda: batch_of(
        Graph(X, Y), lambda net, b: F.mse_loss(net(b.nodes), b.targets) * b.number)),
    Setup("encoding of a tokenizer", lambda: batch_of(
        Encoding(input_ids=X, labels=LABELS), encoded, nn.Linear(4, 3)), quick=True),
    Setup("a batch that cannot be copied", lambda: batch_of(
        Locked(), lambda net, b: net(b.x).square().mean()),
        nan=ALL, warns="cannot be copied.*probe=callable", quick=True),
    Setup("ragged", lambda: batch_of(([X[:3], X[3:5], X[5:]], [Y[0], Y[1], Y[2]]), ragged)),
    Setup("packed sequences", lambda: batch_of(
        pack_sequence([SERIES[0], SERIES[1, :3], SERIES[2, :1]]), packed, nn.GRU(2, 3))),
    Setup("a seed", lambda: train(mlp(), drawn, 5)),
    Setup("text", lambda: batch_of(["some", "more", "text"], words)),
    Setup("numpy", lambda: Training(Module(mlp(), numpys), as_it_is(
        {"x": X.numpy(), "y": Y.numpy()}))),
    Setup("sparse inputs", lambda: batch_of(
        (X.relu().to_sparse(), Y),
        lambda net, b: F.mse_loss(torch.sparse.mm(b[0], net.weight.T), b[1]), nn.Linear(4, 1))),
    Setup("subclass of tensor", lambda: batch_of(
        (X.as_subclass(Labelled), Y),
        lambda net, b: squared(net, b).as_subclass(torch.Tensor)), nan=None),
    Setup("generators", lambda: Training(Stream(mlp(), squared), Streams()),
          nan=ALL, warns="cannot be copied.*probe=callable", quick=True),
    Setup("augmented on arrival", lambda: Training(Augmented(mlp(), squared), [(X, Y)] * 2)),
]  # fmt: skip
