"""Stop training when RegNewton's steps say that it has come to rest."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from torch_newton import RegNewton

from .compat import Callback


class StopWhenConverged(Callback):
    """Ends ``trainer.fit`` after `patience` steps in succession whose `Step.converged` is true.

    Every `RegNewton` of the trainer must say so. A mini-batch step never does.

    >>> stop = StopWhenConverged(patience=2)

    Args:
        patience: how many steps in succession, of the trainer's own batches.

    Attributes:
        stopped_step: the trainer's ``global_step`` at which training was ended; None before.

    Raises:
        ValueError: `patience` is not positive.
    """

    def __init__(self, patience: int = 1) -> None:
        super().__init__()
        if patience < 1:
            raise ValueError(f"patience must be at least 1, not {patience}")
        self.patience = patience
        self.stopped_step: int | None = None
        self._count = 0

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Look at the steps that were just taken."""
        found = [o.last_step for o in trainer.optimizers if isinstance(o, RegNewton)]
        steps = [step for step in found if step is not None]
        rested = bool(steps) and len(steps) == len(found) and all(step.converged for step in steps)
        self._count = self._count + 1 if rested else 0
        if self._count < self.patience:
            return
        trainer.should_stop = True
        self.stopped_step = trainer.global_step
        reasons = {step.convergence.value for step in steps if step.convergence is not None}
        rank_zero_info(f"StopWhenConverged: {'; '.join(sorted(reasons))}")

    def state_dict(self) -> dict[str, Any]:
        """The count of steps, for the trainer's checkpoints."""
        return {"count": self._count, "stopped_step": self.stopped_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._count, self.stopped_step = state_dict["count"], state_dict["stopped_step"]
