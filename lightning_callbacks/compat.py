"""The two namespaces under which Lightning is installed, as one.

``pytorch_lightning`` and ``lightning.pytorch`` hold the same code twice, each with its own
`Callback` and its own exceptions, and each trainer knows its own only. The classes made here are
subclasses of those of every namespace that is installed, so that one callback serves both.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING


def _installed(*places: tuple[str, str]) -> tuple[type, ...]:
    there = [place for place in places if find_spec(place[0].split(".")[0]) is not None]
    # Lightning imports TorchMetrics, and would complain of it in words of its own.
    if not there or find_spec("torchmetrics") is None:
        raise ModuleNotFoundError(
            "lightning_callbacks needs Lightning: pip install 'torch-newton[lightning]'"
        )
    return tuple(getattr(import_module(module), name) for module, name in there)


# A type checker cannot follow a class made by a call, and the two namespaces agree in all that it
# looks at, so it is shown one of them.
if TYPE_CHECKING:
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning import Callback
else:
    Callback = type(
        "Callback",
        _installed(("pytorch_lightning", "Callback"), ("lightning.pytorch", "Callback")),
        {"__doc__": "A subclass of each installed `Callback`."},
    )
    MisconfigurationException = type(
        "MisconfigurationException",
        _installed(
            ("lightning_fabric.utilities.exceptions", "MisconfigurationException"),
            ("lightning.fabric.utilities.exceptions", "MisconfigurationException"),
        ),
        {"__doc__": "A subclass of each installed `MisconfigurationException`."},
    )

__all__ = ["Callback", "MisconfigurationException"]
