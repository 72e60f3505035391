"""Message passing on graphs, and sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.helpers import randn
from tests.trust.architectures.build import fit
from tests.trust.architectures.case import Case, Problem

EDGES = torch.tensor([[0, 1, 1, 2, 3, 4, 5, 0, 2, 5], [1, 0, 2, 1, 4, 3, 0, 5, 4, 3]])
NODES = 6


class Convolution(nn.Module):
    """Messages W x_j, each weighted by degrees, summed at the node that they reach."""

    def __init__(self, how: str = "index_add") -> None:
        super().__init__()
        self.layer, self.head, self.how = nn.Linear(3, 4), nn.Linear(4, 1), how

    def forward(self, x: Tensor) -> Tensor:
        source, sink = EDGES
        degree = torch.ones(NODES).to(x).index_add(0, sink, torch.ones(len(sink)).to(x))
        weights = (degree[source] * degree[sink]).rsqrt()[:, None]
        messages = weights * self.layer(x)[source]
        return self.head(torch.tanh(self.sum(messages, sink)))

    def sum(self, messages: Tensor, sink: Tensor) -> Tensor:
        zero = messages.new_zeros(NODES, messages.shape[1])
        index = sink[:, None].expand_as(messages)
        if self.how == "index_add":
            return zero.index_add(0, sink, messages)
        if self.how == "index_put":
            return zero.index_put((sink,), messages, accumulate=True)
        if self.how == "scatter_add":
            return zero.scatter_add(0, index, messages)
        return zero.scatter_reduce(0, index, messages, self.how, include_self=False)


class Adjacency(nn.Module):
    """The same as a product with a matrix."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        A = torch.eye(NODES).index_put(
            (EDGES[1], EDGES[0]), torch.ones(EDGES.shape[1]).to(torch.eye(1))
        )
        self.A = A.to_sparse() if sparse else A

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            torch.tanh(
                torch.sparse.mm(self.A, self.layer(x))
                if self.A.is_sparse
                else self.A @ self.layer(x)
            )
        )


class Attention(nn.Module):
    """A softmax over the edges into each node."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.score, self.head = nn.Linear(3, 4), nn.Linear(8, 1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        source, sink = EDGES
        z = self.layer(x)
        score = torch.tanh(self.score(torch.cat([z[source], z[sink]], 1))).exp()
        total = score.new_zeros(NODES, 1).index_add(0, sink, score)
        gathered = z.new_zeros(NODES, 4).index_add(0, sink, score / total[sink] * z[source])
        return self.head(gathered)


class EdgeNetwork(nn.Module):
    """A network of both ends of an edge, and the largest message."""

    def __init__(self, reduce: str) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        source, sink = EDGES
        messages = self.net(torch.cat([x[sink], x[source] - x[sink]], 1))
        index = sink[:, None].expand_as(messages)
        zero = messages.new_zeros(NODES, 2)
        return zero.scatter_reduce(0, index, messages, self.reduce, include_self=False)


class Isomorphism(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eps, self.net = (
            nn.Parameter(torch.zeros(())),
            nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(
            (1 + self.eps) * x + torch.zeros_like(x).index_add(0, EDGES[1], x[EDGES[0]])
        )


class Distances(nn.Module):
    """SchNet's filters: a network of distances weighs each message."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 3))
        self.centres, self.head = torch.linspace(0, 3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        source, sink = EDGES
        distance = (x[source] - x[sink]).norm(dim=1, keepdim=True)
        weights = self.filter(torch.exp(-((distance - self.centres.to(x)) ** 2)))
        return self.head(torch.zeros_like(x).index_add(0, sink, weights * x[source]))


class Sets(nn.Module):
    """Deep sets of unequal sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        group = torch.tensor([0, 0, 0, 1, 2, 2])
        return self.all(x.new_zeros(3, 4).index_add(0, group, torch.tanh(self.each(x))))


class EdgeWeights(nn.Module):
    """A learned weight for each edge, and twice the same layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.layer = nn.Parameter(torch.ones(EDGES.shape[1], 1)), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            messages = self.weights * self.layer(x)[EDGES[0]]
            x = torch.tanh(torch.zeros_like(x).index_add(0, EDGES[1], messages))
        return x


class Gather(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(3, 4), how

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.layer(x))
        index = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 3], [0, 1], [2, 2]])
        if self.how == "gather":
            return z.gather(1, index)
        if self.how == "take_along_dim":
            return torch.take_along_dim(z, index, 1)
        return z.index_select(0, index[:, 0]) + z.take(index[:, :1])


def of(module: nn.Module) -> Problem:
    return fit(module, randn(NODES, 3, seed=2))


CASES = [
    *(
        Case(
            f"graph convolution, {how}",
            lambda how=how: of(Convolution(how)),
            quick=how == "index_add",
        )
        for how in ("index_add", "index_put", "scatter_add", "mean", "amax", "prod")
    ),
    Case("graph convolution, matrix", lambda: of(Adjacency(False))),
    Case("graph convolution, sparse matrix", lambda: of(Adjacency(True))),
    Case("graph attention", lambda: of(Attention())),
    Case("edge network, amax", lambda: of(EdgeNetwork("amax"))),
    Case("edge network, sum", lambda: of(EdgeNetwork("sum"))),
    Case("graph isomorphism network", lambda: of(Isomorphism())),
    Case("continuous filters", lambda: of(Distances())),
    Case("deep sets", lambda: of(Sets())),
    Case("learned edge weights", lambda: of(EdgeWeights())),
    Case("gather", lambda: of(Gather("gather"))),
    Case("take_along_dim", lambda: of(Gather("take_along_dim"))),
    Case("index_select and take", lambda: of(Gather("take"))),
]
