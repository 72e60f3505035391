"""What PyTorch itself ships: Adam, L-BFGS and Muon."""

from __future__ import annotations

import torch

from ..problem import NotApplicable
from ..task import Task
from .contender import Contender, Setting, loop


def adam(task: Task, setting: Setting) -> None:
    optimizer = torch.optim.Adam(task.instance.params, **setting)
    closure = task.closure(optimizer)
    loop(task, lambda: optimizer.step(closure))


def lbfgs(task: Task, setting: Setting) -> None:
    optimizer = torch.optim.LBFGS(
        task.instance.params,
        max_iter=20,
        history_size=100,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=0.0,
    )
    closure = task.closure(optimizer)
    loop(task, lambda: optimizer.step(closure))


def muon(task: Task, setting: Setting) -> None:
    """Muon for hidden weight matrices, AdamW for the rest, as its author prescribes."""
    params = task.instance.params
    hidden = [p for p in params if p.ndim == 2 and min(p.shape) > 1]
    if not hidden:
        raise NotApplicable("no hidden weight matrix")
    ids = {id(p) for p in hidden}
    matrix = torch.optim.Muon(hidden, weight_decay=0.0, **setting)
    rest = torch.optim.AdamW([p for p in params if id(p) not in ids], lr=1e-2, weight_decay=0.0)

    def step() -> None:
        matrix.zero_grad()
        rest.zero_grad()
        task.loss().backward()
        matrix.step()
        rest.step()

    loop(task, step)


CONTENDERS = [
    Contender(
        "Adam",
        "first-order",
        adam,
        module="torch",
        requirement="torch==2.13.0",
        settings="lr tuned over 1e-3, 3e-3, 1e-2, 3e-2",
        source="https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html",
        grid=tuple({"lr": lr} for lr in (3e-3, 1e-3, 1e-2, 3e-2)),
    ),
    Contender(
        "L-BFGS",
        "quasi-newton",
        lbfgs,
        module="torch",
        requirement="torch==2.13.0",
        settings="strong Wolfe, history 100, 20 iterations per step, no early stop",
        source="https://docs.pytorch.org/docs/stable/generated/torch.optim.LBFGS.html",
    ),
    Contender(
        "Muon",
        "first-order",
        muon,
        module="torch",
        requirement="torch==2.13.0",
        settings="hidden matrices: lr tuned over 1e-3, 1e-2, no decay; the rest: AdamW 1e-2",
        source="https://docs.pytorch.org/docs/stable/generated/torch.optim.Muon.html",
        grid=({"lr": 1e-3}, {"lr": 1e-2}),
    ),
]
