"""Whether gradients are changed in a training whose own steps are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torch_newton.autodiff.finite_difference import gradient_alone

from .backward_hooks import backward_hooks
from .custom_functions import wrong_backwards
from .probe import Probe
from .trainer import trained


class WatchedSteps:
    """What of a model has a backward pass that is no derivative, when RegNewton's steps are taken.

    Such a step has run its closure before it is seen, so that hooks have acted in its graph. Those
    on modules and parameters are known where they are registered. What is applied within the
    forward pass is found by one evaluation in a run, on the first batch.

    Args:
        probe: evaluates the loss on that.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._found: list[str] | None = None

    def wrong(self, trainer: Any) -> Sequence[str]:
        """What changes gradients, by name."""
        module = trainer.lightning_module
        if backward_hooks(module, trainer.optimizers):
            return ["a hook on a parameter or a module"]
        if self._found is None:
            self._found = self._on_first_batch(trainer, module)
        return self._found

    def _on_first_batch(self, trainer: Any, module: Any) -> list[str]:
        if not module.automatic_optimization:  # an evaluation would take a step
            return []

        def evaluate() -> Tensor | None:
            return self._probe.loss_alone(trainer, module)

        loss, evaluation = evaluate(), self._probe.evaluation
        if loss is None:
            return []
        gradient_alone(loss, trained(trainer.optimizers))  # in which hooks on tensors act
        return wrong_backwards(loss, evaluate, evaluation)
