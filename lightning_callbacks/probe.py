"""The loss of a module on a fixed batch, beside its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import truediv
from typing import Any

import torch
from torch import Tensor

from torch_newton.autodiff.finite_difference import gradient_alone
from torch_newton.autodiff.nodes import custom_classes
from torch_newton.autodiff.products import nodes_of

from .allowance import Allowance
from .batch import copy_of, probe_batches, training_loss
from .config import Arguments
from .custom_functions import wrong_backwards
from .displacement import Previous
from .frozen import Frozen
from .isolation import SEED, undisturbed
from .jacobian import Rows, Warn, jacobian_given, jacobian_in
from .kernel_products import KernelProducts, products_of_loss, products_of_outputs
from .manual import loss_of_optimizer
from .newton import Optimizers, first_damping, last_scaling, last_step, newton_among
from .outcomes import MovedError
from .point import Point
from .second_order import Derivatives, Evaluation, as_vector, differentiable_twice, moved_by
from .settings import Settings
from .start import Start
from .trainer import trained

SAME = 1e3
"""Units of rounding within which two evaluations of a loss are the same: on a GPU sums are taken in
any order, and no more than three digits of a mean are lost by that."""

STEPS, EVALUATIONS = 3.0, 6.0
"""What the loss and its gradient with a graph are reckoned to take before they are timed, in
training steps or in evaluations of the loss, whichever is more. In training steps of 2 cores these
were 0.5 for a dense network of a million parameters, 1 for CNNs, 2 for a ResNet and 3 for an LSTM,
cold; in evaluations 2 to 6 for all but networks so small that none of this takes long."""


class Probe:
    """The batches on which the loss is evaluated, and the lambda at which it is looked at.

    Args:
        given: the arguments of CurvatureMonitor.
        warn: called with what the user should know.

    Attributes:
        scales: the curvature scale s at the first measurement, from which lambda follows for
            optimizers that have none, by the index of the optimizer; -1 is for all together.
        previous: the parameters before the last step, where a quantity asks for it.
        evaluation: what was noticed when the loss was last evaluated.
    """

    def __init__(self, given: Arguments, warn: Warn) -> None:
        self.scales: dict[int, float] = {}
        self.previous: Previous = Previous()
        self._given = given
        self._warn = warn
        self._batches: list[Any] | None = None
        self._frozen: Frozen | None = None
        self._derivatives: Derivatives | None = None
        self._start = Start()
        self.evaluation = Evaluation()
        self._index = -1

    def keep_first(self, batch: Any) -> None:
        """Take this training batch, where the user gave none and none is kept yet."""
        if self._batches is None and self._given.probe is None:
            self._batches = [copy_of(batch)]

    def point(
        self, trainer: Any, module: Any, settings: Settings, allowance: Allowance, index: int = -1
    ) -> Point | None:
        """The loss and its derivatives where the module stands; None if it skips the batch.

        Args:
            trainer: the trainer.
            module: its module.
            settings: how closely to look.
            allowance: the time that measuring may take.
            index: of the optimizer whose loss is wanted under manual optimization; -1 elsewhere.

        Raises:
            OutOfTimeError: there is no time for it in this pause.
        """
        with allowance.together():
            if self._batches is None or callable(self._given.probe):
                self._batches = probe_batches(trainer, module, self._given.probe)
            self._derivatives, self._index = None, index
            self._frozen = Frozen(module, trained(trainer.optimizers))
            self._sound_out(trainer, module, allowance)
        with allowance.together():
            point = self._evaluated(trainer, module, settings, allowance)
        return None if allowance.anywhere(point is None) else point

    def loss_alone(self, trainer: Any, module: Any) -> Tensor | None:
        """The loss with its graph where the module stands; None where there is no batch."""
        with undisturbed(trainer, module, SEED):
            return None if self._batches is None else self._loss(trainer, module)

    @property
    def can_return(self) -> bool:
        """Whether `return_to` puts nothing in a place that the training would not get back."""
        return self._frozen is not None and self._frozen.within_module

    def end(self) -> None:
        """Give up the graph, and where the module stood: the measurement has ended."""
        self._derivatives, self._frozen = None, None
        self._start.drop()

    def leave(self, point: Point) -> None:
        """Note where the parameters are, and give up the graph, until `return_to`."""
        assert self._frozen is not None and self._derivatives is not None  # noqa: PT018 - a point
        # The graph goes first: a copy of the parameters has then room in its place.
        point.release()
        self._derivatives.release()
        self._frozen.leave()

    def return_to(self, point: Point, trainer: Any, module: Any) -> None:
        """Move the module to where it stood at `point`, and evaluate the loss there again.

        To be called in a block that puts back what the training has made of the module since.

        Raises:
            MovedError: the loss is not what it was: it depends on more than the parameters, the
                buffers, the batch and the random numbers.
            OutOfTimeError: there is no time for it in this pause.
        """
        with point.allowance.together():
            self._return_to(point, trainer, module)

    def _return_to(self, point: Point, trainer: Any, module: Any) -> None:
        assert self._frozen is not None  # it has been left
        self._frozen.put()
        found = self._evaluated(trainer, module, point.settings, point.allowance)
        before, now = point.value, math.nan if found is None else float(found.loss.detach())
        unit = torch.finfo(point.params[0].dtype).eps
        if found is None or not abs(now - before) <= SAME * unit * max(1.0, abs(before)):
            raise MovedError(
                f"the loss on the probe batch was {before:.6g} and is now {now:.6g}, with the same "
                "parameters and random numbers, so that a measurement cannot be continued after "
                "further steps"
            )
        point.adopt(found)
        assert self._derivatives is not None  # they were evaluated
        self._derivatives.gradient = point.gradient  # the same numbers, in the same memory

    def _sound_out(self, trainer: Any, module: Any, allowance: Allowance) -> None:
        """Where nothing is timed yet, time the loss alone, before its derivatives are ventured.

        Raises:
            OutOfTimeError: there is no time for that.
        """
        if allowance.unlimited or allowance.costs.of("gradient") is not None:
            return
        if allowance.costs.of("evaluation") is None:
            allowance.require(allowance.step)
            began = allowance.now()
            with undisturbed(trainer, module, SEED):
                self._loss(trainer, module, self._index)
            allowance.costs.put("evaluation", allowance.now() - began)

    def _evaluated(
        self, trainer: Any, module: Any, settings: Settings, allowance: Allowance
    ) -> Point | None:
        allowance.require(allowance.estimate("gradient", _guess(allowance)))
        given, index = self._given, self._index
        optimizers = trainer.optimizers if index < 0 else [trainer.optimizers[index]]
        params = trained(optimizers)
        began = allowance.now()
        loss = self._loss(trainer, module, index)
        if loss is None:
            self._warn("training_step skipped the probe batch, so there is nothing to measure")
            return None

        def gradient_at(v: Tensor) -> Tensor:
            # As the first evaluation was: the same random numbers, and nothing left behind.
            with moved_by(params, v), undisturbed(trainer, module, SEED):
                moved = self._loss(trainer, module, index)
                assert moved is not None  # on this batch it was not, with the same random numbers
                return as_vector(gradient_alone(moved, params), params)

        def evaluate(v: Tensor) -> float:
            start = allowance.now()
            with moved_by(params, v), undisturbed(trainer, module, SEED):
                moved = self._loss(trainer, module, index)
                value = math.nan if moved is None else float(moved.detach())
            allowance.costs.put("evaluation", allowance.now() - start)
            return value

        def again() -> None:
            with undisturbed(trainer, module, SEED):
                self._loss(trainer, module, index)

        start, before = None if allowance.unlimited else self._start, self._derivatives
        found = Derivatives(loss, params, gradient_at, self._warn, before=before, start=start)
        self._derivatives = found
        allowance.costs.put("gradient", allowance.now() - began)
        last = last_step(optimizers)
        point = Point(
            loss=loss,
            params=params,
            gradient=found.gradient,
            read_hessian=found.hessian,
            read_damping=lambda: self._damping(point, optimizers, index),
            settings=settings,
            read_jacobian=lambda passes: self._jacobian(trainer, module, loss, params, passes),
            read_kernel=lambda: self._kernel(trainer, module, loss, params),
            warn=self._warn,
            allowance=allowance,
            derivatives=found,
            read_wrong=partial(wrong_backwards, loss, again, self.evaluation),
            functions=len(custom_classes(nodes_of(loss))),
            scaling=last_scaling(optimizers, params) if given.damping is None else None,
            step=None if last is None else last[1],
            damping_by_product=given.damping is None and last is None and index not in self.scales,
            evaluate=evaluate,
            displacement=self.previous.displacement(optimizers, params),
            optimizers=optimizers,
            start=self._start,
        )
        return point

    def _loss(self, trainer: Any, module: Any, index: int = -1) -> Tensor | None:
        """The mean loss of all batches, with its graph; None where one is skipped."""

        def sent_backward(module: Any, batch: Any) -> Tensor | None:
            return loss_of_optimizer(trainer, module, batch, index)

        function = sent_backward if index >= 0 else self._given.loss or training_loss
        with differentiable_twice() as self.evaluation:
            losses = self._evaluate(function, trainer, module)
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

    def _damping(self, point: Point, optimizers: Optimizers, index: int) -> float:
        """Lambda, absolute: the user's, RegNewton's last, or the start of its damping rule."""
        if self._given.damping is not None:
            return float(self._given.damping)
        newton = newton_among(optimizers)
        if newton is not None and newton.last_step is not None:
            return newton.last_step.damping
        if index not in self.scales:
            lengths = map(torch.linalg.vector_norm, (point.gradient_product, point.gradient))
            s = float(truediv(*lengths))
            if s > 0 and math.isfinite(s):
                self.scales[index] = s
        return first_damping(newton, point.params, self.scales.get(index, 1.0))

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


def _guess(allowance: Allowance) -> float:
    """What the loss and its gradient with a graph are reckoned to take before they are timed."""
    return max(STEPS * allowance.step, EVALUATIONS * allowance.estimate("evaluation"))
