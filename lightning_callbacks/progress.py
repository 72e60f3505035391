"""Chosen numbers of a monitor in Lightning's progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .quantities.base import Numbers


def show(trainer: Any, keys: Sequence[str], latest: Callable[[], Numbers]) -> Callable[[], None]:
    """Add numbers to what the trainer's progress bar shows beside the module's own.

    The bar asks its method ``get_metrics`` for what it shows, which Lightning offers for such
    additions; here it is replaced on the trainer's bar alone.

    Args:
        trainer: whose bar it is; without one nothing is shown.
        keys: of the numbers; what is not measured yet is left out.
        latest: returns the numbers measured last.

    Returns:
        A callable that takes them out again.
    """
    bar = trainer.progress_bar_callback
    if bar is None or not keys:
        return lambda: None
    metrics = bar.get_metrics

    def more(*args: Any, **kwargs: Any) -> dict[str, Any]:
        known = latest()
        return {**metrics(*args, **kwargs), **{key: known[key] for key in keys if key in known}}

    bar.get_metrics = more
    return lambda: vars(bar).pop("get_metrics", None)
