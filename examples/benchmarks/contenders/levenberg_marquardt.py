"""torch-levenberg-marquardt: dense Gauss-Newton with Marquardt's damping."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..problem import NotApplicable
from ..task import Finished, Task
from .contender import Contender, Setting, loop


class Unpacked(nn.Module):
    """module(inputs) -> module(*inputs): this peer passes one argument."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return self.module(*inputs)


def run(task: Task, setting: Setting) -> None:
    from torch_levenberg_marquardt.training import LevenbergMarquardtModule

    rows = task.instance.rows
    if rows is None:
        raise NotApplicable("needs residual rows")
    peer = LevenbergMarquardtModule(Unpacked(rows.module), use_vmap=rows.per_row)
    # The rows carry their targets: what they should be is zero.
    zeros = torch.zeros_like(rows.module(*rows.inputs)).detach()

    def step() -> None:
        _, _, stop, logs = peer.training_step(list(rows.inputs), zeros)
        # One evaluation for the Jacobian's rows and one per attempt.
        task.closure_calls += 1 + int(logs["attempts"])
        if stop:
            raise Finished("peer stopped: damping at its upper limit")

    loop(task, step, evaluate=True)


CONTENDERS = [
    Contender(
        "torch-levenberg-marquardt",
        "newton",
        run,
        module="torch_levenberg_marquardt",
        requirement="torch-levenberg-marquardt==1.2.3",
        settings="defaults (QR, vmap Jacobian, damping 1e-3 times or by 10, 10 attempts)",
        source="https://github.com/fabiodimarco/torch-levenberg-marquardt",
    ),
]
