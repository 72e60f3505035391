"""Steps that fail: outside the training loop, or within it."""

from __future__ import annotations

from typing import Any

import torch

from tests.callbacks.setups.build import Module, X, Y, mlp, squared
from tests.callbacks.setups.setup import ALL, Setup, Training


class Failing(Module):
    """Fails wherever it is evaluated outside the training loop."""

    def __init__(self, error: Exception) -> None:
        super().__init__(mlp(), squared)
        self.error = error

    def training_step(self, batch: Any) -> Any:
        if "log" in vars(self):  # put there while nothing is to be logged
            raise self.error
        return super().training_step(batch)


class Counting(Module):
    """Fails by itself after some steps."""

    def training_step(self, batch: Any) -> Any:
        if self.global_step == 4:
            raise RuntimeError("a fault of the user's own")
        return super().training_step(batch)


class Stopping(Module):
    """Ends the training from within."""

    def training_step(self, batch: Any) -> Any:
        self.trainer.should_stop = self.calls == 3
        return super().training_step(batch)


class Asserting(Module):
    """Insists on being called once for each step."""

    def training_step(self, batch: Any) -> Any:
        assert self.calls == self.global_step, "called twice"
        return super().training_step(batch)


class Whole(Module):
    """Looks at the trainer's own state in the step."""

    def training_step(self, batch: Any) -> Any:
        loop = self.trainer.fit_loop.epoch_loop
        assert loop.batch_progress.current.ready == loop.batch_progress.current.started
        assert self.trainer.training
        assert torch.is_grad_enabled()
        return super().training_step(batch)


def failing(error: Exception) -> Training:
    return Training(Failing(error), [(X, Y)])


def trained(kind: Any) -> Training:
    return Training(kind(mlp(), squared), [(X, Y)])


SETUPS = [
    Setup("a step that fails", lambda: failing(LookupError("the step was called twice")),
          nan=ALL, warns="LookupError: the step was called twice.*loss=callable", quick=True),
    Setup("exhausted memory", lambda: failing(torch.OutOfMemoryError("tried to allocate 1 TiB")),
          nan=ALL, warns="OutOfMemoryError.*smaller batch", quick=True),
    Setup("a fault of the user's own", lambda: trained(Counting), nan=None,
          raises="of the user's own", quick=True),
    Setup("training ended from within", lambda: trained(Stopping)),
    Setup("a step that counts its calls", lambda: trained(Asserting), nan=None),
    Setup("a look at the trainer", lambda: trained(Whole), nan=None),
]  # fmt: skip
