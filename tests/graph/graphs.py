"""Networks and functions in which parameters are used in every way that is read."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import randn

Graph = tuple[Tensor, list[Tensor]]


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

IMAGES, VOLUMES, PAIRS = randn(5, 2, 5, 5), randn(5, 1, 4, 4, 4), randn(10, 3, seed=4)
NUMBERS = torch.arange(8 * 5).reshape(8, 5) * 7 % 9


def after(layer: nn.Module, x: Tensor) -> Graph:
    """A layer between nonlinear functions, and one output of each sample."""
    z = layer(x).tanh().flatten(1)
    return z @ randn(z.shape[1], 1, seed=4), list(layer.parameters())


GRAPHS |= {
    "PReLU": lambda: of(network(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 1)), 8, 3),
    "PReLU of images": lambda: after(nn.PReLU(2), IMAGES),
    "bilinear": lambda: functional(
        lambda w, b: F.bilinear(POINTS, PAIRS, w, b).tanh().sum(1), (4, 3, 3), (4,)
    ),
    "divided by a parameter": lambda: functional(
        lambda w, s: torch.tanh(POINTS @ w) / (s / 3), (3, 2), (2,)
    ),
    "a parameter divided by data": lambda: functional(
        lambda s: s / (2 + POINTS.square()), (3,)
    ),
    "transposed convolution": lambda: after(nn.ConvTranspose1d(2, 3, 3, stride=2), randn(5, 2, 6)),
    "transposed convolution of images": lambda: after(
        nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), IMAGES
    ),
    "convolution of volumes": lambda: after(nn.Conv3d(1, 2, 2, padding=1), VOLUMES),
    "group norm": lambda: after(nn.GroupNorm(2, 4), randn(5, 4)),
    "group norm of images": lambda: after(nn.GroupNorm(1, 2), IMAGES),
    "instance norm": lambda: after(nn.InstanceNorm2d(2, affine=True), IMAGES),
    "batch norm in training mode": lambda: after(nn.BatchNorm2d(2), IMAGES),
    "batch norm in evaluation mode": lambda: after(nn.BatchNorm1d(3).eval(), POINTS),
    "several matrices": lambda: functional(
        lambda w: torch.bmm(POINTS.expand(2, 10, 3), w).tanh().sum((0, 2)), (2, 3, 4)
    ),
    "several matrices from the left": lambda: functional(
        lambda w: torch.bmm(w, POINTS.T.expand(2, 3, 10)).tanh().sum((0, 1)), (2, 4, 3)
    ),
    "a token for each sample": lambda: functional(
        lambda t, w: (torch.cat([t.expand(6, 1, 3), X], 1) @ w).tanh().sum((1, 2)),
        (1, 1, 3),
        (3, 2),
    ),
    "LSTM": lambda: (
        (net := nn.LSTM(3, 2, batch_first=True))(X)[0].flatten(1), list(net.parameters())
    ),
}  # fmt: skip


TABLES: dict[str, Callable[[], Graph]] = {
    "normalised codes of samples": lambda: functional(
        lambda s: torch.tanh(torch.cat([POINTS, F.normalize(s, dim=1)], 1)).prod(1), (10, 2)
    ),
    "embedding": lambda: (
        (net := network(nn.Embedding(9, 3, padding_idx=2), nn.Tanh(), nn.Flatten(),
                        nn.Linear(15, 1)))(NUMBERS),
        list(net.parameters()),
    ),
    "large embedding": lambda: (
        (net := network(nn.Embedding(500, 3), nn.Tanh(), nn.Flatten(), nn.Linear(15, 1)))(NUMBERS),
        list(net.parameters()),
    ),
    "embedding of two outputs": lambda: (
        (net := network(nn.Embedding(90, 3), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2)))(NUMBERS),
        list(net.parameters()),
    ),
    "tied embedding": lambda: functional(
        lambda w: (F.embedding(NUMBERS[:, 0], w).tanh() @ w.T).sum(1), (9, 3)
    ),
    "embedding used twice": lambda: functional(
        lambda w: (F.embedding(NUMBERS, w).sum(1) * F.embedding(NUMBERS[:, 0], w)).sum(1), (90, 3)
    ),
    "sums of bags": lambda: functional(
        lambda w: F.embedding_bag(NUMBERS, w, mode="sum").tanh().sum(1), (9, 3)
    ),
    "weighted sums of bags": lambda: functional(
        lambda w: F.embedding_bag(
            NUMBERS, w, mode="sum", per_sample_weights=randn(8, 5)
        ).tanh().sum(1),
        (9, 3),
    ),
    "means of bags of unequal size": lambda: functional(
        lambda w: F.embedding_bag(
            NUMBERS.reshape(-1), w, torch.tensor([0, 3, 3, 10, 39]), mode="mean"
        ).tanh()[[0, 2, 3, 4]].sum(1),
        (9, 3),
    ),
    "rows by number": lambda: functional(
        lambda w: torch.tanh(w[NUMBERS[:, 0]] * POINTS[:8]).sum(1), (9, 3)
    ),
    "entries by number": lambda: functional(
        lambda w: torch.tanh(w[NUMBERS[:, 0], NUMBERS[:, 1] % 3]), (9, 3)
    ),
    "columns by number": lambda: functional(
        lambda w: torch.tanh(w[:, NUMBERS[:, 0]]).sum(0), (3, 9)
    ),
    "selected rows": lambda: functional(
        lambda w: torch.tanh(w.index_select(0, NUMBERS[:, 0]) * POINTS[:8]).sum(1), (9, 3)
    ),
    "gathered entries": lambda: functional(
        lambda w: torch.tanh(w.gather(0, NUMBERS[:, :3])).sum(1), (9, 3)
    ),
    "a number for each sample": lambda: functional(
        lambda w, s: (torch.tanh(POINTS @ w) * s)[:, 0], (3, 2), (10, 1)
    ),
    "a code for each sample": lambda: functional(
        lambda w, s: torch.tanh(torch.cat([POINTS, s], 1) @ w).sum(1), (5, 3), (10, 2)
    ),
    "a matrix for each sample": lambda: functional(
        lambda w: torch.bmm(X, w).tanh().sum((1, 2)), (6, 3, 5)
    ),
}  # fmt: skip


def complex_of(real: Tensor, imaginary: Tensor) -> Tensor:
    return torch.complex(real, imaginary)


COMPUTED: dict[str, Callable[[], Graph]] = {
    "attention to others": lambda: (
        (net := nn.MultiheadAttention(4, 2, batch_first=True))(
            randn(5, 3, 4), *[randn(5, 6, 4, seed=2)] * 2
        )[0].flatten(1)[:, :3],
        list(net.parameters()),
    ),
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
    "normalised weights": lambda: functional(
        lambda w: torch.tanh(POINTS @ F.normalize(w, dim=0)), (3, 30)
    ),
    "weight norm": lambda: after(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), POINTS),
    "orthogonal weight": lambda: after(
        nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), POINTS
    ),
    "chunks": lambda: functional(
        lambda w: sum((F.linear(POINTS, c).sin() for c in w.chunk(3)), torch.zeros(())), (9, 3)
    ),
    "split": lambda: functional(
        lambda w: F.linear(POINTS, w.split([2, 4])[1]).sin(), (6, 3)
    ),
    "stacked": lambda: functional(
        lambda w, u: torch.bmm(POINTS.expand(2, 10, 3), torch.stack([w, u])).tanh().sum((0, 2)),
        (3, 4), (3, 4),
    ),
    "joined": lambda: functional(
        lambda w, u: (POINTS @ torch.cat([w, u], 1)).tanh().sum(1), (3, 4), (3, 2)
    ),
    "low rank beside a constant": lambda: functional(
        lambda a, b: (POINTS @ (randn(3, 4, seed=7) + a @ b)).tanh().sum(1), (3, 2), (2, 4)
    ),
    "outer product": lambda: functional(
        lambda a, b: (POINTS @ torch.outer(a, b)).tanh().sum(1), (3,), (4,)
    ),
    "masked": lambda: functional(
        lambda w: (POINTS @ (w * (randn(3, 4) > 0))).tanh().sum(1), (3, 4)
    ),
    "weights of another network": lambda: functional(
        lambda c, w, b: (POINTS @ F.linear(c, w, b).reshape(3, 4)).tanh().sum(1),
        (5,), (12, 5), (12,),
    ),
    "a spline for each pair": lambda: functional(
        lambda w: torch.einsum(
            "ijk,jlk->ijl", torch.stack([POINTS, POINTS.sin()], -1), w
        ).tanh().sum((1, 2)),
        (3, 4, 2),
    ),
    "spectral weights": lambda: functional(
        lambda w: torch.fft.irfft(
            torch.fft.rfft(randn(10, 8)) * torch.view_as_complex(w), n=8
        ).tanh().sum(1),
        (5, 2),
    ),
    "spectral weights between channels": lambda: functional(
        lambda w: torch.fft.irfft(
            torch.einsum("bif,iof->bof", torch.fft.rfft(randn(6, 3, 8)), torch.view_as_complex(w)),
            n=8,
        ).tanh().sum((1, 2)),
        (3, 2, 5, 2),
    ),
    "complex matrix": lambda: functional(
        lambda a, b: ((POINTS + 1j * PAIRS) @ complex_of(a, b)).abs().sum(1), (3, 4), (3, 4)
    ),
}  # fmt: skip
"""The numbers of unread uses differ; each has a parameter that reaches the data by way of another
tensor."""
