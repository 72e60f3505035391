"""RegNewton itself, with nothing tuned."""

from __future__ import annotations

from ..task import Task
from .contender import Contender, Setting, loop


def run(curvature: str | None):
    def start(task: Task, setting: Setting) -> None:
        from torch_newton import RegNewton

        chosen = {} if curvature is None else {"curvature": curvature}
        optimizer = RegNewton(task.instance.params, **chosen)
        closure = task.closure(optimizer)
        task.products = 0

        def step() -> None:
            optimizer.step(closure)
            last = optimizer.last_step
            task.products += last.products
            task.cg_iterations.append(last.cg_iterations)
            task.extra["path"] = last.path.name
            task.extra["stop"] = last.stop.name

        loop(task, step)

    return start


CONTENDERS = [
    Contender(
        "RegNewton",
        "ours",
        run(None),
        module="torch_newton",
        requirement="torch-newton",
        settings="defaults",
        source="this repository",
    ),
    Contender(
        "RegNewton (GN)",
        "ours",
        run("gauss_newton"),
        module="torch_newton",
        requirement="torch-newton",
        settings='curvature="gauss_newton"',
        source="this repository",
    ),
]
