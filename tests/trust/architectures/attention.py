"""Attention and transformers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import randn
from tests.trust.architectures.build import fit
from tests.trust.architectures.case import Case, Problem

TOKENS = (3, 4, 4)


class Multihead(nn.Module):
    """`MultiheadAttention` of tokens to themselves, with a head for each token."""

    def __init__(self, mask: Tensor | None = None, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)  # type: ignore[arg-type]
        self.head, self.mask = nn.Linear(4, 1), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, attn_mask=self.mask, need_weights=False)[0])


Weights = Callable[[Tensor, Tensor, Tensor], Tensor]


class Hand(nn.Module):
    """Attention by three linear layers and a function of queries, keys and values."""

    def __init__(self, attend: Weights, bias: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 3, bias=bias) for _ in range(3))
        self.head, self.attend = nn.Linear(3, 1), attend

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attend(self.q(x), self.k(x), self.v(x)))


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / 3**0.5).softmax(-1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
    return (q @ k.mT / 3**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    distance = (torch.arange(4)[:, None] - torch.arange(4)).abs()
    return (q @ k.mT - 0.5 * distance).softmax(-1) @ v


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])


def rotary(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    def turn(x: Tensor) -> Tensor:
        angle = torch.arange(4).to(x)[:, None]
        a, b = x[..., :1], x[..., 1:2]
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    return (turn(q) @ turn(k).mT).softmax(-1) @ v


class Relative(nn.Module):
    """A learned bias for each distance."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.bias, self.head = (
            nn.Linear(4, 9),
            nn.Parameter(torch.zeros(7)),
            nn.Linear(3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        distance = torch.arange(4)[:, None] - torch.arange(4) + 3
        return self.head((q @ k.mT + self.bias[distance]).softmax(-1) @ v)


class Queries(nn.Module):
    """Learned queries that look at all tokens, as Perceivers and set transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.randn(2, 3))
        self.k, self.v = nn.Linear(4, 3, bias=False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.q @ self.k(x).mT).softmax(-1) @ self.v(x)


class Shared(nn.Module):
    """Two heads of queries and one of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (2, 2)).transpose(1, 2)
        k, v = self.kv(x).chunk(2, -1)
        z = F.scaled_dot_product_attention(q, k[:, None].expand_as(q), v[:, None].expand_as(q))
        return self.out(z.transpose(1, 2).flatten(2))


class Patches(nn.Module):
    """A vision transformer of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 2, 2, stride=2)
        self.token, self.position = (
            nn.Parameter(torch.randn(1, 1, 2)),
            nn.Parameter(torch.randn(5, 2)),
        )
        self.layer = nn.TransformerEncoderLayer(
            2, 1, 3, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x).flatten(2).mT
        z = torch.cat([self.token.expand(len(z), 1, 2), z], 1) + self.position
        return self.head(self.layer(z)[:, 0])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(4, 2, 3, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x[:, :2], x))


def encoder(**options: object) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True, **options)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.Linear(4, 1))


def of(module: nn.Module) -> Problem:
    return fit(module, randn(*TOKENS, seed=2))


CASES = [
    Case("MultiheadAttention", lambda: of(Multihead()), steps=30, quick=True),
    Case("MultiheadAttention without bias", lambda: of(Multihead(bias=False))),
    Case(
        "MultiheadAttention masked",
        lambda: of(Multihead(torch.ones(4, 4, dtype=torch.bool).triu(1))),
    ),
    Case("MultiheadAttention bias_kv", lambda: of(Multihead(add_bias_kv=True))),
    Case("softmax attention", lambda: of(Hand(softmax)), steps=30),
    Case("softmax attention without bias", lambda: of(Hand(softmax, bias=False))),
    Case("causal attention", lambda: of(Hand(causal))),
    Case("ALiBi attention", lambda: of(Hand(alibi))),
    Case("linear attention", lambda: of(Hand(linear))),
    Case("rotary attention", lambda: of(Hand(rotary))),
    Case("scaled_dot_product_attention", lambda: of(Hand(F.scaled_dot_product_attention))),
    Case("relative attention", lambda: of(Relative())),
    Case("learned queries", lambda: of(Queries())),
    Case("multi-query attention", lambda: of(Shared())),
    Case("TransformerEncoderLayer", lambda: of(encoder(dropout=0.0)), steps=30),
    Case("TransformerEncoderLayer norm first", lambda: of(encoder(dropout=0.0, norm_first=True))),
    Case("TransformerEncoderLayer dropout", lambda: of(encoder(dropout=0.2))),
    Case("TransformerEncoderLayer gelu", lambda: of(encoder(dropout=0.0, activation="gelu"))),
    Case("TransformerDecoderLayer", lambda: of(Decoder())),
    Case("vision transformer", lambda: fit(Patches(), randn(3, 1, 4, 4, seed=2))),
]
