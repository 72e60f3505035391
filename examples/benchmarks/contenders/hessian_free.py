"""PyTorchHessianFree (Martens 2010; Martens and Sutskever 2012)."""

from __future__ import annotations

from ..problem import NotApplicable
from ..task import Task
from .contender import Contender, Setting, loop


def run(task: Task, setting: Setting) -> None:
    from hessianfree.optimizer import HessianFree

    if task.instance.next_batch is not None:
        raise NotApplicable("carries its CG start over from step to step: full batches only")
    rows = task.instance.rows
    least_squares = rows is not None and task.problem.family != "classification"
    curvature = "ggn" if least_squares else "hessian"
    optimizer = HessianFree(task.instance.params, curvature_opt=curvature)

    def forward():
        if not least_squares:
            return task.loss(), None
        task.check_time()
        task.closure_calls += 1
        residuals = rows.residuals()
        loss = residuals.square().mean()
        task.observe(float(loss.detach()))
        return loss, residuals

    loop(task, lambda: optimizer.step(forward))


CONTENDERS = [
    Contender(
        "HessianFree",
        "newton",
        run,
        module="hessianfree.optimizer",
        requirement="git+https://github.com/ltatzel/PyTorchHessianFree backpack-for-pytorch",
        settings="defaults: Gauss-Newton (Hessian for cross-entropy), damping 1 adapted, CG 250",
        source="https://github.com/ltatzel/PyTorchHessianFree",
    ),
]
