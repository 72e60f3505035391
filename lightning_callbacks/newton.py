"""What the monitor takes from RegNewton, where that is among the trainer's optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torch_newton import (
    Adaptive,
    DampingContext,
    LinearOperator,
    Observation,
    RegNewton,
    Step,
    hessian,
    width,
)
from torch_newton.autodiff.finite_difference import gradient_alone
from torch_newton.preconditioners.scaling import Scaling

from .allowance import Allowance
from .backward_hooks import backward_hooks
from .config import Arguments
from .displacement import Displacement
from .jacobian import Warn, jacobian_in
from .kernel_products import products_of_loss
from .point import Point
from .settings import Settings

Optimizers = Sequence[torch.optim.Optimizer]


def newton_among(optimizers: Optimizers) -> RegNewton | None:
    """The first `RegNewton`, None where there is none."""
    return next((o for o in optimizers if isinstance(o, RegNewton)), None)


def last_step(optimizers: Optimizers) -> tuple[RegNewton, Step] | None:
    """The first `RegNewton` that has taken a step, with that step; None where none has."""
    for optimizer in optimizers:
        if isinstance(optimizer, RegNewton) and optimizer.last_step is not None:
            return optimizer, optimizer.last_step
    return None


def first_damping(newton: RegNewton | None, params: Sequence[Tensor], s: float) -> float:
    """Lambda at which the damping rule of `newton`, `Adaptive` for None, begins at curvature s."""
    n = width(params) if newton is None else newton.options.width or width(params)
    rule = Adaptive() if newton is None else newton.options.damping
    return rule(None, DampingContext(s, n, torch.finfo(params[0].dtype).eps))


def last_scaling(optimizers: Optimizers, params: Sequence[Tensor]) -> Tensor | None:
    """D^{-1/2} of the last step of a `RegNewton`, where that was damped by lambda D."""
    found = last_step(optimizers)
    if found is None or not found[1].system.scaled:
        return None
    return Scaling.kept(found[0].state, params).vector


def optimizer_to_observe(trainer: Any, given: Arguments) -> RegNewton | None:
    """The optimizer whose own steps can be measured, None where a probe must be evaluated.

    That takes a step whose loss and batch are those to be measured: the user has asked for no
    others, it is the only optimizer, its closure sees one whole batch, and the epoch's end, where
    no step is being taken, is not the time to measure. Hooks of the model on gradients have acted
    in the step, and can be put aside in an evaluation of the monitor's own only.
    """
    if given.probe is not None or given.loss is not None or given.outputs is not None:
        return None
    if given.logging_interval == "epoch" or trainer.world_size > 1:
        return None
    optimizers = list(trainer.optimizers)
    if len(optimizers) != 1 or trainer.accumulate_grad_batches != 1:
        return None
    if backward_hooks(trainer.lightning_module, optimizers):
        return None
    return optimizers[0] if isinstance(optimizers[0], RegNewton) else None


def point_of_step(
    seen: Observation,
    damping: float | None,
    settings: Settings,
    warn: Warn,
    allowance: Allowance,
    displacement: Displacement | None = None,
    read_wrong: Callable[[], Sequence[str]] = tuple,
) -> Point:
    """The point at which a step of `RegNewton` began, made of what the step has computed already.

    Args:
        seen: the step.
        damping: lambda where the user gave it, in place of the step's.
        settings: how closely to look.
        warn: called where the loss shows no outputs, or H is not symmetric.
        allowance: the time that measuring may take.
        displacement: the step before.
        read_wrong: returns what of the model has a backward pass that is no derivative.
    """

    def read_hessian() -> tuple[LinearOperator, float]:
        return hessian(seen.loss, seen.params) if seen.curvature is None else seen.curvature, 0.0

    if not allowance.unlimited:  # the unit in which the cost of the rest is reckoned
        began = allowance.now()
        gradient_alone(seen.loss, seen.params)
        allowance.costs.put("gradient", allowance.now() - began)
    space = seen.space
    # A Jacobian that leaves out parameters is not that of a kernel.
    if space is not None and space.whole:
        known, gram = space.jacobian.to(seen.params[0].dtype), space.gram
    else:
        known, gram = None, None
    return Point(
        loss=seen.loss,
        params=seen.params,
        gradient=seen.gradient,
        read_hessian=read_hessian,
        read_damping=lambda: seen.step.damping if damping is None else damping,
        settings=settings,
        read_jacobian=lambda passes: jacobian_in(seen.loss, list(seen.params), warn, known, passes),
        read_kernel=lambda: products_of_loss(seen.loss, seen.params),
        warn=warn,
        allowance=allowance,
        scaling=seen.scaling if damping is None else None,
        gram=gram,
        step=seen.step,
        displacement=displacement,
        read_wrong=read_wrong,
        functions=1,
    )
