"""The models, batches and losses that several processes share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 6

DTYPE = torch.float64

CASES: dict[str, dict[str, Any]] = {
    "auto": {},
    "plain": {"preconditioner": None},
    "gauss_newton": {"curvature": "gauss_newton"},
    "gauss_newton_plain": {"curvature": "gauss_newton", "preconditioner": None},
    "fixed": {"damping": 5.0, "cg_tol": 1e-13},
    "differences": {"hvp": "finite_difference", "preconditioner": None},
    "cross_entropy": {},
    "uneven": {},
    "uneven_plain": {"preconditioner": None},
    "unused": {},
    "primal": {},
    "primal_uneven": {},
    "primal_scaled": {"curvature": "gauss_newton", "scaling": "jacobian"},
    "primal_hessian": {"curvature": "hessian"},
    "primal_unused": {"curvature": "gauss_newton", "scaling": "jacobian"},
    "primal_clipped": {},
    "undamped": {"curvature": "gauss_newton", "damping": 0.0, "lr": 0.5},
    "accumulated": {"damping": 5.0, "preconditioner": None, "cg_tol": 1e-13},
    "accumulated_inside": {"damping": 5.0, "preconditioner": None, "cg_tol": 1e-13},
    "accumulated_rows": {"damping": 5.0, "max_memory": 5000, "cg_tol": 1e-13},
    "low_rank": {"curvature": "gauss_newton", "max_memory": 5000},
    "low_rank_unused": {"curvature": "gauss_newton", "max_memory": 5000},
    "low_rank_hessian": {"curvature": "hessian", "max_memory": 5000},
    "primal_low_rank": {"curvature": "gauss_newton", "max_memory": 20000},
    "least_memory": {"curvature": "gauss_newton", "max_memory": 5000},
    "sampled_rows": {"damping": 5.0, "cg_tol": 1e-13, "preconditioner": "sampled_rows"},
    "nystrom": {"damping": 5.0, "cg_tol": 1e-13, "preconditioner": "nystrom"},
    "kronecker_rows": {"damping": 5.0, "cg_tol": 1e-13, "preconditioner": "kronecker"},
    "empty": {},
    "empty_low_rank": {"curvature": "gauss_newton", "max_memory": 2000, "cg_tol": 1e-13},
    "primal_empty": {},
    "sequences": {},
    "primal_sequences": {"curvature": "gauss_newton"},
    "table": {},
    "primal_table": {"curvature": "gauss_newton"},
    "low_rank_table": {"curvature": "gauss_newton", "max_memory": 5000, "cg_tol": 1e-13},
    "static_graph": {},
    "bucket_view": {},
}

TALL = ("primal", "undamped")
"""Cases with more rows than parameters."""


def network(outputs: int = 1, norm: bool = False, small: bool = False) -> nn.Module:
    torch.manual_seed(0)
    if small:
        return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, outputs)).to(DTYPE)
    layers = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)]
    if norm:
        layers.insert(1, nn.BatchNorm1d(8))
    return nn.Sequential(*layers).to(DTYPE)


def batch(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, generator=random, dtype=DTYPE)
    return x, torch.sin(3 * x[:, :1]) * x[:, 1:], (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def rows_of(case: str, rank: int) -> int:
    if case.startswith(TALL):
        return 40 + 30 * rank if case == "primal_uneven" else 40
    if "empty" in case:
        return 0 if rank == 1 else 10
    return 7 + 5 * rank if case.startswith("uneven") else 10


class Sequences(nn.Module):
    """Uses its weights at each place of a sequence, or has a table of what may stand there."""

    def __init__(self, table: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        first = nn.Embedding(7, 2) if table else nn.Linear(2, 3)
        self.net = nn.Sequential(first, nn.Tanh(), nn.Linear(2 if table else 3, 3)).to(DTYPE)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x).mean(1)
        return result


def sequences(case: str, model: nn.Module, rank: int) -> Tensor:
    """The loss of sequences that are longer on higher ranks."""
    rows, length = rows_of(case, rank), 3 + rank
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(rows, length, 2, generator=random, dtype=DTYPE)
    if case.endswith("table"):
        x = torch.randint(7, (rows, length), generator=random)
    y = torch.randn(rows, 3, generator=random, dtype=DTYPE)
    return functional.mse_loss(model(x), y)


def loss_of(case: str, model: nn.Module, rank: int, seed: int = 0) -> Tensor:
    if case.endswith(("sequences", "table")):
        return sequences(case, model, rank)
    x, y, label = batch(rows_of(case, rank), 10 * rank + 1000 * seed)
    if "empty" in case:
        return functional.mse_loss(model(x)[:, :1], y, reduction="sum") / 10
    if case == "cross_entropy":
        return functional.cross_entropy(model(x), label)
    return functional.mse_loss(model(x)[:, :1], y)


class Unused(nn.Module):
    """Has a layer that only the first rank uses."""

    def __init__(self, rank: int | None, small: bool = False) -> None:
        super().__init__()
        self.net, self.extra, self.rank = network(small=small), nn.Linear(2, 1).to(DTYPE), rank
        nn.init.constant_(self.extra.weight, 0.3)
        nn.init.constant_(self.extra.bias, 0.1)

    def forward(self, x: Tensor, extra: bool | None = None) -> Tensor:
        result: Tensor = self.net(x)
        with_extra = self.rank == 0 if extra is None else extra
        return result + self.extra(x) if with_extra else result


def model_of(case: str, rank: int | None) -> nn.Module:
    small = case.startswith(TALL)
    if case.endswith(("sequences", "table")):
        return Sequences(case.endswith("table"))
    return Unused(rank, small) if case.endswith("unused") else network(3, small=small)


def clip(case: str, model: nn.Module) -> None:
    if case.endswith("clipped"):
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
