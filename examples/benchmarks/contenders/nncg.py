"""DeepXDE's NysNewton-CG (Rathore et al. 2024, arXiv 2402.01868)."""

from __future__ import annotations

import os

from ..problem import NotApplicable
from ..task import Task
from .contender import Contender, Setting, loop


def run(task: Task, setting: Setting) -> None:
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    from deepxde.optimizers.pytorch.nncg import NNCG

    params = task.instance.params
    if task.problem.family in ("classic", "nist"):
        raise NotApplicable("a Nystrom sketch of a handful of parameters is the whole Hessian")
    # Its documentation advises fewer CG iterations where it is slow: with its default of 1,000 it
    # rarely ends a step within a budget.
    optimizer = NNCG(params, rank=50, line_search_fn="armijo", cg_max_iters=100, **setting)
    product = optimizer._hvp

    def counted(*arguments):
        task.product()
        return product(*arguments)

    optimizer._hvp = counted
    task.products = 0
    # This peer differentiates the loss itself, so its closure does not call backward.
    loop(task, lambda: optimizer.step(task.loss))


CONTENDERS = [
    Contender(
        "DeepXDE NNCG",
        "newton",
        run,
        module="deepxde",
        requirement="deepxde==1.15.0",
        settings="rank 50, Armijo, CG at most 100, mu tuned over 1e-4, 1e-3, 1e-2, 1e-1",
        source="https://deepxde.readthedocs.io/en/latest/modules/deepxde.optimizers.html",
        grid=tuple({"mu": mu} for mu in (1e-2, 1e-4, 1e-3, 1e-1)),
    ),
]
