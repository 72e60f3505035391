"""torchzero: Newton-CG with backtracking, and Steihaug's trust region."""

from __future__ import annotations

import torch

from ..task import Finished, Task
from .contender import Contender, Setting, loop


def run(chain: str):
    def start(task: Task, setting: Setting) -> None:
        import torchzero as tz

        modules = {
            "newton-cg": lambda: [
                tz.m.NewtonCG(maxiter=int(setting["maxiter"])),
                tz.m.Backtracking(),
            ],
            "steihaug": lambda: [tz.m.NewtonCGSteihaug()],
        }[chain]()
        optimizer = tz.Optimizer(task.instance.params, *modules)

        def closure(backward: bool = True):
            with torch.enable_grad():  # trial losses are asked for under no_grad
                loss = task.loss()
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        def step() -> None:
            optimizer.step(closure)
            if optimizer.should_terminate:
                raise Finished("peer stopped")

        loop(task, step)

    return start


SOURCE = "https://torchzero.readthedocs.io/en/latest/"

CONTENDERS = [
    Contender(
        "torchzero newton-cg",
        "newton",
        run("newton-cg"),
        module="torchzero",
        requirement="torchzero==0.4.4",
        settings="NewtonCG and Backtracking, CG limit tuned over 10 (its example), 100",
        source=SOURCE,
        grid=({"maxiter": 10}, {"maxiter": 100}),
    ),
    Contender(
        "torchzero steihaug",
        "newton",
        run("steihaug"),
        module="torchzero",
        requirement="torchzero==0.4.4",
        settings="NewtonCGSteihaug(), defaults",
        source=SOURCE,
    ),
]
