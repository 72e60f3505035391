"""The loss of a module on a fixed batch, beside its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torch_newton import Adaptive, DampingContext, LinearOperator, gradient_and_hessian, width

from .batch import copy_of, probe_batches, training_loss
from .config import Arguments
from .jacobian import Rows, Warn, jacobian_given, jacobian_in
from .newton import Optimizers, last_scaling, last_step, newton_among
from .point import Point, Settings
from .trainer import trained


class Probe:
    """The batches on which the loss is evaluated, and the lambda at which it is looked at.

    Args:
        given: the arguments of CurvatureMonitor.
        warn: called with what the user should know.

    Attributes:
        scale: the curvature scale s at the first measurement, from which lambda follows for
            optimizers that have none; None until then.
    """

    def __init__(self, given: Arguments, warn: Warn) -> None:
        self.scale: float | None = None
        self._given = given
        self._warn = warn
        self._batches: list[Any] | None = None

    def keep_first(self, batch: Any) -> None:
        """Take this training batch, where the user gave none and none is kept yet."""
        if self._batches is None and self._given.probe is None:
            self._batches = [copy_of(batch)]

    def point(self, trainer: Any, module: Any, settings: Settings) -> Point | None:
        """The loss and its derivatives where the module stands; None if it skips the batch."""
        given, optimizers = self._given, trainer.optimizers
        params = trained(optimizers)
        if self._batches is None or callable(given.probe):
            self._batches = probe_batches(trainer, module, given.probe)
        losses = self._evaluate(given.loss or training_loss, trainer, module)
        if losses is None:
            self._warn("training_step skipped the probe batch, so there is nothing to measure")
            return None
        loss = torch.stack(losses).mean() if len(losses) > 1 else losses[0]
        gradient, H = gradient_and_hessian(loss, params)
        last = last_step(optimizers)
        return Point(
            loss=loss,
            params=params,
            gradient=gradient,
            H=H,
            damping=self._damping(gradient, H, params, optimizers),
            settings=settings,
            read_jacobian=lambda: self._jacobian(trainer, module, loss, params),
            warn=self._warn,
            scaling=last_scaling(optimizers, params) if given.damping is None else None,
            step=None if last is None else last[1],
        )

    def _evaluate(
        self, function: Callable[[Any, Any], Tensor | None], trainer: Any, module: Any
    ) -> list[Tensor] | None:
        """What `function` makes of each batch, in the trainer's precision; None if it skips one."""
        results = []
        with trainer.precision_plugin.train_step_context():
            for batch in self._batches or []:
                # A copy, since training_step may change its batch in place, and the next
                # measurement must see the same one.
                result = function(module, copy_of(batch))
                if result is None:
                    return None
                results.append(result)
        return results

    def _damping(
        self, gradient: Tensor, H: LinearOperator, params: list[Tensor], optimizers: Optimizers
    ) -> float:
        """Lambda, absolute: the user's, RegNewton's last, or the start of its damping rule."""
        if self._given.damping is not None:
            return float(self._given.damping)
        newton = newton_among(optimizers)
        if newton is not None and newton.last_step is not None:
            return newton.last_step.damping
        if self.scale is None:
            s = float(torch.linalg.vector_norm(H @ gradient) / torch.linalg.vector_norm(gradient))
            self.scale = s if s > 0 and math.isfinite(s) else None
        n = width(params) if newton is None else newton.options.width or width(params)
        rule = Adaptive() if newton is None else newton.options.damping
        return rule(None, DampingContext(self.scale or 1.0, n, torch.finfo(params[0].dtype).eps))

    def _jacobian(
        self, trainer: Any, module: Any, loss: Tensor, params: Sequence[Tensor]
    ) -> Rows | None:
        if self._given.outputs is None:
            return jacobian_in(loss, list(params), self._warn)
        outputs = self._evaluate(self._given.outputs, trainer, module) or []
        return jacobian_given(outputs, list(params), self._warn)
