"""No garbage collection in a pause of which the length is limited."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A block in which Python does not look for garbage that refers to itself.

    It looks when so many objects were made, through all objects that there are: 0.2 s in a program
    that has imported PyTorch and Lightning, which is fifty training steps of a small network, and
    five times the longest pause. Looked for after the block instead, that is part of a training
    step, as it is without the monitor.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
