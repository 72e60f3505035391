"""Optimizers and schedules, by automatic optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import optim

from tests.callbacks.setups.build import Module, batches, classifier, mlp, squared
from tests.callbacks.setups.setup import Setup, Training
from torch_newton import RegNewton


class Sharpness(optim.SGD):
    """Steps by the gradient at the worst point nearby (SAM): two evaluations a step."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        assert closure is not None
        with torch.enable_grad():
            loss = closure()
        params = [p for group in self.param_groups for p in group["params"]]
        moves = [0.01 * p.grad.sign() for p in params]
        torch._foreach_add_([p.data for p in params], moves)
        with torch.enable_grad():
            closure()
        torch._foreach_sub_([p.data for p in params], moves)
        super().step()
        return loss


class Scheduled(Module):
    """With a scheduler."""

    def __init__(self, make: Callable[[Any], Any], **config: Any) -> None:
        super().__init__(mlp(), squared)
        self.make, self.config = make, config

    def configure_optimizers(self) -> Any:
        optimizer = optim.SGD(self.parameters(), 1e-2, momentum=0.9)
        return [optimizer], [{"scheduler": self.make(optimizer), **self.config}]


class OfItsOwn(Scheduled):
    """Calls its scheduler itself, with the number of the epoch."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step(epoch=self.current_epoch)


def with_optimizer(make: Callable[[Any], Any], number: int = 3) -> Training:
    module = Module(mlp(), squared, optimizer=lambda params, lr: make(list(params)))
    return Training(module, batches(number))


def groups(params: list[Any]) -> optim.Optimizer:
    return optim.AdamW([{"params": params[:2], "lr": 1e-2},
                        {"params": params[2:], "lr": 1e-3, "weight_decay": 0.1}])  # fmt: skip


def scheduled(make: Callable[[Any], Any], **config: Any) -> Training:
    return Training(Scheduled(make, **config), batches())


SETUPS = [
    Setup("momentum", lambda: with_optimizer(
        lambda params: optim.SGD(params, 1e-2, 0.9, nesterov=True, weight_decay=1e-2))),
    Setup("groups of parameters", lambda: with_optimizer(groups)),
    Setup("averaged and adaptive", lambda: with_optimizer(lambda params: optim.ASGD(params, 1e-2))),
    Setup("signs of gradients", lambda: with_optimizer(optim.Rprop)),
    Setup("amsgrad, for all at once", lambda: with_optimizer(
        lambda params: optim.Adam(params, 1e-2, amsgrad=True, foreach=True))),
    Setup("part of the parameters", lambda: with_optimizer(
        lambda params: optim.RMSprop(params[2:], 1e-2))),
    Setup("l-bfgs", lambda: with_optimizer(
        lambda params: optim.LBFGS(params, max_iter=3, line_search_fn="strong_wolfe"), 1),
        quick=True),
    Setup("newton", lambda: with_optimizer(RegNewton, 1), quick=True),
    Setup("newton on mini-batches", lambda: with_optimizer(RegNewton)),
    Setup("newton, gauss-newton", lambda: with_optimizer(
        lambda params: RegNewton(params, curvature="gauss_newton", scaling="jacobian"))),
    Setup("newton, fixed damping", lambda: with_optimizer(
        lambda params: RegNewton(params, damping=1.0, preconditioner=None))),
    Setup("newton on a classifier", lambda: classifier(
        torch.nn.Linear(4, 3), optimizer=lambda params, lr: RegNewton(params))),
    Setup("sharpness-aware", lambda: with_optimizer(lambda params: Sharpness(params, 1e-2))),
    Setup("one cycle", lambda: scheduled(
        lambda o: optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=8), interval="step")),
    Setup("cosine", lambda: scheduled(
        lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2))),
    Setup("plateau", lambda: scheduled(
        lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, patience=0), monitor="loss")),
    Setup("a scheduler called by hand", lambda: Training(
        OfItsOwn(lambda o: optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch)), batches())),
]  # fmt: skip
