"""Numbers and spectra for the trainer's loggers and its other callbacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .processes import Processes
from .quantities.base import Numbers
from .tensorboard import write_spectra


def publish(trainer: Any, numbers: Numbers) -> None:
    """Put numbers where EarlyStopping and ModelCheckpoint look for them."""
    values = torch.tensor(list(numbers.values()), dtype=torch.float64)
    trainer.callback_metrics.update(zip(numbers, values.unbind(), strict=True))


def write(
    trainer: Any, numbers: Numbers, spectra: Mapping[str, Tensor], *, prefix: str, figures: bool
) -> None:
    """Write both to every logger of the trainer at ``trainer.global_step``, on one process.

    Args:
        trainer: the trainer.
        numbers: by their keys, with prefix.
        spectra: eigenvalues by the name of the matrix, for TensorBoard.
        prefix: put in front of their names.
        figures: whether TensorBoard gets figures besides histograms.
    """
    if not (numbers and trainer.is_global_zero):
        return
    step = trainer.global_step
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=step)
    write_spectra(trainer.loggers, dict(spectra), step, prefix=prefix, figures=figures)


def mean_over_processes(trainer: Any, numbers: Numbers) -> Numbers:
    """The mean of each number over all processes, which must call this together.

    The numbers are those of the first process, NaN where another one has none of that key.
    """
    if trainer.world_size == 1:
        return numbers
    keys = Processes(trainer).from_first(list(numbers))
    if not keys:
        return {}
    values = torch.tensor(
        [numbers.get(key, math.nan) for key in keys],
        dtype=torch.float64,
        device=trainer.strategy.root_device,
    )
    means = trainer.strategy.reduce(values, reduce_op="mean").tolist()
    return dict(zip(keys, means, strict=True))
