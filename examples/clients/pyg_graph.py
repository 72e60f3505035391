"""PyTorch Geometric: a graph convolutional network on a graph of two communities.

``python -m examples.clients.pyg_graph`` trains on the labels of a tenth of the nodes by RegNewton,
and for as long with Adam at 0.01, as PyG's tutorials do. Both have the tutorials' weight decay, a
term w |theta|^2 / 2 of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import stochastic_blockmodel_graph

from torch_newton import RegNewton

from .clock import Clock

WEIGHT_DECAY = 5e-4


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GCNConv(8, 16), GCNConv(16, 2)

    def forward(self, data: Data) -> Tensor:
        return self.second(self.first(data.x, data.edge_index).tanh(), data.edge_index)


def problem(seed: int) -> tuple[Network, Data]:
    torch.manual_seed(seed)
    edges = stochastic_blockmodel_graph([100, 100], [[0.05, 0.02], [0.02, 0.05]])
    y = torch.arange(2).repeat_interleave(100)
    x = torch.randn(200, 8) + 0.3 * y[:, None]
    train = torch.zeros(200, dtype=torch.bool).index_fill_(0, torch.randperm(200)[:20], True)
    return Network(), Data(x=x, edge_index=edges, y=y, train_mask=train)


def loss_of(model: Network, data: Data) -> Tensor:
    return functional.cross_entropy(model(data)[data.train_mask], data.y[data.train_mask])


def objective(model: Network, data: Data) -> float:
    """What both minimise: the loss and the weight decay."""
    squares = sum(float(p.detach().square().sum()) for p in model.parameters())
    return float(loss_of(model, data).detach()) + WEIGHT_DECAY / 2 * squares


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """The loss with weight decay, and processor seconds."""
    (model, data), clock = problem(seed), Clock()
    optimizer = RegNewton(model.parameters(), weight_decay=WEIGHT_DECAY)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, data)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        if optimizer.last_step is not None and optimizer.last_step.converged:
            break
    return objective(model, data), clock.seconds


def train_default(seconds: float, seed: int = 0) -> float:
    """What Adam comes to."""
    (model, data), clock = problem(seed), Clock(seconds)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=WEIGHT_DECAY)
    while not clock.up:
        optimizer.zero_grad()
        loss_of(model, data).backward()
        optimizer.step()
    return objective(model, data)


if __name__ == "__main__":
    for seed in range(3):
        found, seconds = train_newton(60, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {found:.2e}, Adam {default:.2e}")
