"""Evaluate a LightningModule beside its training, and leave no trace of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .remember import remember, remember_contents

SEED = 0
"""Of the random numbers in a measurement. Any fixed one serves: with the same dropout mask every
time, a difference between two measurements is one of the parameters."""


class Silent:
    """Answers every use with itself: stands in for a logger while nothing should be logged."""

    def __getattr__(self, name: str) -> Silent:
        return self

    def __getitem__(self, key: Any) -> Silent:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Silent:
        return self


@contextmanager
def undisturbed(trainer: Any, module: Any, seed: int) -> Iterator[None]:
    """A block in which `module` may run, after which it and the random state are as before.

    Within, random numbers start from `seed`, so that dropout draws the same mask every time;
    ``self.log`` and the trainer's loggers swallow what they are given. Afterwards are put back:
    the generators of PyTorch (CPU and CUDA), NumPy and Python; parameters, buffers, gradients
    and flags; every attribute of every submodule, torchmetrics included, and the contents of
    containers, generators and arrays among them (see `remember`); and the attributes of the
    trainer, of which a step may set ``should_stop``. What an attribute of another class keeps
    inside itself is out of reach.

    Args:
        trainer: whose loggers are replaced meanwhile.
        module: with all that it holds.
        seed: of the random numbers within.
    """
    loggers = trainer.loggers
    with _random_state_of_its_own(seed):
        undo = remember(module)
        undo_trainer = remember_contents(vars(trainer), vars(trainer).update)
        try:
            trainer.loggers = [Silent() for _ in loggers]
            for part in module.modules():
                # An attribute of the instance hides the method of its class.
                for name in ("log", "log_dict"):
                    if callable(getattr(part, name, None)):
                        vars(part)[name] = _log_nothing
            yield
        finally:
            try:
                undo()
            finally:
                undo_trainer()


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def _random_state_of_its_own(seed: int) -> Iterator[None]:
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = None if numpy is None else numpy.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            torch.manual_seed(seed)
            if numpy is not None:
                numpy.random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            if numpy is not None:
                numpy.random.set_state(numpy_state)
