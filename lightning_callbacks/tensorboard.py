"""Spectra for TensorBoard, where that is among the trainer's loggers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor


def writers(loggers: Sequence[Any]) -> list[Any]:
    """The SummaryWriter of each TensorBoard logger, of either namespace."""
    return [
        logger.experiment
        for logger in loggers
        # By name, so that nothing is imported that is not in use.
        if any(cls.__name__ == "TensorBoardLogger" for cls in type(logger).__mro__)
    ]


def write_spectra(
    loggers: Sequence[Any], spectra: dict[str, Tensor], step: int, *, prefix: str, figures: bool
) -> None:
    """A histogram of each spectrum, and a figure of all of them.

    Histograms are of the eigenvalues as they are. The figure is left out where Matplotlib is not
    installed.
    """
    known = {name: values for name, values in spectra.items() if len(values)}
    for writer in writers(loggers):
        for name, values in known.items():
            writer.add_histogram(f"{prefix}{name}/eigenvalues", values, global_step=step)
        if figures and known and find_spec("matplotlib") is not None:
            figure = import_module("lightning_callbacks.figures").eigenvalue_figure(known)
            writer.add_figure(f"{prefix}spectra", figure, global_step=step, close=True)
