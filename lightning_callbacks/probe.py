"""The loss of a module on a fixed batch, beside its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torch_newton import Adaptive, DampingContext, width
from torch_newton.autodiff.finite_difference import gradient_alone

from .allowance import Allowance
from .batch import copy_of, probe_batches, training_loss
from .config import Arguments
from .displacement import Previous
from .isolation import SEED, undisturbed
from .jacobian import Rows, Warn, jacobian_given, jacobian_in
from .kernel_products import KernelProducts, products_of_loss, products_of_outputs
from .newton import Optimizers, last_scaling, last_step, newton_among
from .point import Point, Settings
from .second_order import Derivatives, as_vector, differentiable_twice, moved_by
from .trainer import trained


class Probe:
    """The batches on which the loss is evaluated, and the lambda at which it is looked at.

    Args:
        given: the arguments of CurvatureMonitor.
        warn: called with what the user should know.

    Attributes:
        scale: the curvature scale s at the first measurement, from which lambda follows for
            optimizers that have none; None until then.
        previous: the parameters before the last step, where a quantity asks for it.
    """

    def __init__(self, given: Arguments, warn: Warn) -> None:
        self.scale: float | None = None
        self.previous = Previous()
        self._given = given
        self._warn = warn
        self._batches: list[Any] | None = None

    def keep_first(self, batch: Any) -> None:
        """Take this training batch, where the user gave none and none is kept yet."""
        if self._batches is None and self._given.probe is None:
            self._batches = [copy_of(batch)]

    def point(
        self, trainer: Any, module: Any, settings: Settings, allowance: Allowance
    ) -> Point | None:
        """The loss and its derivatives where the module stands; None if it skips the batch."""
        given, optimizers = self._given, trainer.optimizers
        params = trained(optimizers)
        if self._batches is None or callable(given.probe):
            self._batches = probe_batches(trainer, module, given.probe)
        began = allowance.now()
        loss = self._loss(trainer, module)
        if loss is None:
            self._warn("training_step skipped the probe batch, so there is nothing to measure")
            return None

        def gradient_at(v: Tensor) -> Tensor:
            # As the first evaluation was: the same random numbers, and nothing left behind.
            with moved_by(params, v), undisturbed(trainer, module, SEED):
                moved = self._loss(trainer, module)
                assert moved is not None  # on this batch it was not, with the same random numbers
                return as_vector(gradient_alone(moved, params), params)

        def evaluate(v: Tensor) -> float:
            start = allowance.now()
            with moved_by(params, v), undisturbed(trainer, module, SEED):
                moved = self._loss(trainer, module)
                value = math.nan if moved is None else float(moved.detach())
            allowance.costs.put("evaluation", allowance.now() - start)
            return value

        found = Derivatives(loss, params, gradient_at, allowance, self._warn)
        allowance.costs.put("gradient", allowance.now() - began)
        last = last_step(optimizers)

        point = Point(
            loss=loss,
            params=params,
            gradient=found.gradient,
            read_hessian=found.hessian,
            read_damping=lambda: self._damping(point, optimizers),
            settings=settings,
            read_jacobian=lambda passes: self._jacobian(trainer, module, loss, params, passes),
            read_kernel=lambda: self._kernel(trainer, module, loss, params),
            warn=self._warn,
            allowance=allowance,
            scaling=last_scaling(optimizers, params) if given.damping is None else None,
            step=None if last is None else last[1],
            evaluate=evaluate,
            displacement=self.previous.displacement(optimizers, params),
            optimizers=optimizers,
        )
        return point

    def _loss(self, trainer: Any, module: Any) -> Tensor | None:
        """The mean loss of all batches, with its graph; None where one is skipped."""
        with differentiable_twice():
            losses = self._evaluate(self._given.loss or training_loss, trainer, module)
        if losses is None:
            return None
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

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

    def _damping(self, point: Point, optimizers: Optimizers) -> float:
        """Lambda, absolute: the user's, RegNewton's last, or the start of its damping rule."""
        if self._given.damping is not None:
            return float(self._given.damping)
        newton = newton_among(optimizers)
        if newton is not None and newton.last_step is not None:
            return newton.last_step.damping
        if self.scale is None:
            g = point.gradient
            s = float(torch.linalg.vector_norm(point.H @ g) / torch.linalg.vector_norm(g))
            self.scale = s if s > 0 and math.isfinite(s) else None
        params = point.params
        n = width(params) if newton is None else newton.options.width or width(params)
        rule = Adaptive() if newton is None else newton.options.damping
        return rule(None, DampingContext(self.scale or 1.0, n, torch.finfo(params[0].dtype).eps))

    def _jacobian(
        self, trainer: Any, module: Any, loss: Tensor, params: Sequence[Tensor], passes: float
    ) -> Rows | None:
        if self._given.outputs is None:
            return jacobian_in(loss, list(params), self._warn, max_passes=passes)
        outputs = self._outputs(trainer, module)
        return jacobian_given(outputs, list(params), self._warn, passes)

    def _kernel(
        self, trainer: Any, module: Any, loss: Tensor, params: Sequence[Tensor]
    ) -> KernelProducts | None:
        if self._given.outputs is None:
            return products_of_loss(loss, params)
        return products_of_outputs(self._outputs(trainer, module), params)

    def _outputs(self, trainer: Any, module: Any) -> list[Tensor]:
        assert self._given.outputs is not None  # who calls has looked
        with differentiable_twice():
            return self._evaluate(self._given.outputs, trainer, module) or []
