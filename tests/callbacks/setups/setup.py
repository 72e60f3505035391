"""What a set-up of training is: all that a run consists of, made anew for each run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl

ALL, HESSIAN, KERNELS = "all", "the Hessian's numbers", "the kernels' numbers"
"""What of a measurement is NaN, where that is not nothing."""

BY_DIFFERENCES = "differences of gradients"
"""What a warning says where a loss has no second derivative."""

STEPS = 6
"""Optimizer steps of a run: three measurements at every second one."""


@dataclass
class Training:
    """What one run consists of.

    Attributes:
        module: what is trained.
        data: a DataLoader, or whatever else ``Trainer.fit`` takes; or a list of batches, which
            make an epoch.
        validation: likewise, where there is one.
        options: of the Trainer, besides `run.QUIET`.
        callbacks: the user's own.
        resumed_at: the step after which training is stopped, and resumed from a checkpoint by a
            new trainer and a new module; None for never.
    """

    module: pl.LightningModule
    data: Any
    validation: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: list[pl.Callback] = field(default_factory=list)
    resumed_at: int | None = None


@dataclass(frozen=True)
class Setup:
    """A way to train, and what is expected of it.

    Attributes:
        name: for the table.
        make: makes all that a run consists of; called after a call of ``manual_seed``.
        nan: what is NaN in the measurements, a constant of this file; None where nothing is said.
        warns: what a warning of the monitor says, as a regular expression.
        raises: what ends the user's own training, with or without a monitor.
        unmeasured: why there are no measurements, where there are none.
        broken: why the check fails today, where it does.
        quick: whether the set-up also belongs to the default run.
    """

    name: str
    make: Callable[[], Training]
    nan: str | None = ""
    warns: str = ""
    raises: str = ""
    unmeasured: str = ""
    broken: str = ""
    quick: bool = False
