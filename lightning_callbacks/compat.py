"""The two namespaces under which Lightning is installed, as one.

``pytorch_lightning`` and ``lightning.pytorch`` hold the same code twice, each with its own
`Callback` and its own exceptions, and each trainer knows its own only. The classes made here are
subclasses of those of every namespace that is installed, so that one callback serves both.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def _installed(*places: tuple[str, str]) -> tuple[type, ...]:
    found = [
        getattr(import_module(module), name)
        for module, name in places
        if find_spec(module.split(".")[0]) is not None
    ]
    if not found:
        raise ModuleNotFoundError(
            "lightning_callbacks needs Lightning: pip install 'torch-newton[lightning]'"
        )
    return tuple(found)


Callback: Any = type(
    "Callback", _installed(("pytorch_lightning", "Callback"), ("lightning.pytorch", "Callback")), {}
)
"""A subclass of each installed `Callback`."""

MisconfigurationException: Any = type(
    "MisconfigurationException",
    _installed(
        ("lightning_fabric.utilities.exceptions", "MisconfigurationException"),
        ("lightning.fabric.utilities.exceptions", "MisconfigurationException"),
    ),
    {},
)
"""A subclass of each installed `MisconfigurationException`."""
