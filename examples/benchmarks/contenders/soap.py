"""SOAP (Vyas et al. 2024, arXiv 2409.11321), from pytorch_optimizer."""

from __future__ import annotations

from ..task import Task
from .contender import Contender, Setting, loop


def run(task: Task, setting: Setting) -> None:
    from pytorch_optimizer import SOAP

    # Weight decay would keep the loss away from its minimum.
    optimizer = SOAP(task.instance.params, weight_decay=0.0, **setting)
    closure = task.closure(optimizer)
    loop(task, lambda: optimizer.step(closure))


CONTENDERS = [
    Contender(
        "SOAP",
        "first-order",
        run,
        module="pytorch_optimizer",
        requirement="pytorch_optimizer==4.1.0",
        settings="lr tuned over 3e-3 (its default), 1e-2; no weight decay",
        source="https://pytorch-optimizers.readthedocs.io/en/latest/optimizer/",
        grid=({"lr": 3e-3}, {"lr": 1e-2}),
    ),
]
