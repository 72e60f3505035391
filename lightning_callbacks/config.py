"""What CurvatureMonitor was asked for, and whether that can be done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from .batch import OfBatch, takes_dataloader_iterator
from .compat import MisconfigurationException
from .point import Settings
from .quantities.base import Need, Quantity
from .quantities.table import QUANTITIES

INTERVALS = ("step", "epoch")

SMALLEST = {
    "every_n_steps": 1,
    "max_rows": 1,
    "exact_up_to": 0,  # no matrix is formed
    "max_products": 2,  # the smallest and the largest eigenvalue take a Lanczos step each
}
"""The integer arguments, and the least that each can be."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of CurvatureMonitor, which documents them."""

    every_n_steps: int
    log_key_prefix: str
    logging_interval: str
    quantities: tuple[str | Quantity, ...]
    probe: Any
    damping: float | None
    loss: OfBatch | None
    outputs: OfBatch | None
    max_overhead: float | None
    max_rows: int
    exact_up_to: int
    max_products: int
    figures: bool

    def selected(self) -> list[Quantity]:
        """The quantities asked for, each name once, and last the numbers of RegNewton's step."""
        asked = [QUANTITIES[q] if isinstance(q, str) else q for q in self.quantities]
        return list({q.name: q for q in (*asked, QUANTITIES["newton"])}.values())

    def settings(self, rounding: float) -> Settings:
        """How closely to look, with `rounding` the unit of it where that exceeds the dtype's."""
        return Settings(
            exact_up_to=self.exact_up_to,
            max_rows=self.max_rows,
            max_products=self.max_products,
            eigenvectors=any(Need.EIGENVECTORS in q.needs for q in self.selected()),
            rounding=rounding,
        )

    def check(self) -> None:
        """Raise a MisconfigurationException for an argument that cannot be used."""
        for name, least in SMALLEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                _refuse(f"an integer {name} >= {least}, not {value!r}")
        if not isinstance(self.log_key_prefix, str):
            _refuse(f"a string log_key_prefix, not {self.log_key_prefix!r}")
        if self.logging_interval not in INTERVALS:
            _refuse(
                f"logging_interval to be one of {', '.join(INTERVALS)}, "
                f"not {self.logging_interval!r}"
            )
        if not isinstance(self.figures, bool):
            _refuse(f"figures to be True or False, not {self.figures!r}")
        self._check_quantities()
        self._check_shares()
        self._check_evaluation()

    def _check_quantities(self) -> None:
        known = [
            isinstance(q, Quantity) or (isinstance(q, str) and q in QUANTITIES)
            for q in self.quantities
        ]
        if not known or not all(known):
            unknown = [
                q for q, is_known in zip(self.quantities, known, strict=True) if not is_known
            ]
            _refuse(
                f"quantities to be some of {', '.join(QUANTITIES)}, or instances of Quantity, "
                f"not {', '.join(map(repr, unknown)) or 'none'}"
            )
        keys = [key for quantity in self.selected() for key, _ in quantity.documentation]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            _refuse(f"quantities that log different keys, and several log {', '.join(repeated)}")

    def _check_shares(self) -> None:
        if self.damping is not None and not _is_number(self.damping):
            _refuse(f"a finite damping >= 0 or None, not {self.damping!r}")
        if self.max_overhead is not None and not (
            _is_number(self.max_overhead) and self.max_overhead > 0
        ):
            _refuse(
                "max_overhead to be a positive share of the training time, as 0.1, or None for "
                f"no limit, not {self.max_overhead!r}"
            )

    def _check_evaluation(self) -> None:
        for name in ("loss", "outputs"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                _refuse(
                    f"{name} to be a callable of (module, batch) or None, "
                    f"not {type(value).__name__}"
                )
        if isinstance(self.probe, DataLoader) and not _has_length(self.probe):
            _refuse("a DataLoader of known length as probe, because all its batches are taken")
        if isinstance(self.probe, (str, int, float)):
            _refuse(
                f"probe to be a batch, a DataLoader or a callable of the module, not {self.probe!r}"
            )

    def check_module(self, module: Any) -> None:
        """Raise a MisconfigurationException where the module's own step gives no loss."""
        if self.loss is not None:
            return
        if not module.automatic_optimization:
            raise MisconfigurationException(
                "CurvatureMonitor calls training_step for its loss, which under manual "
                "optimization takes optimizer steps itself: give it "
                "loss=callable(module, batch) that returns the loss"
            )
        if takes_dataloader_iterator(module):
            raise MisconfigurationException(
                "CurvatureMonitor measures on one fixed batch, but training_step(dataloader_iter) "
                "draws its batches itself: give it probe=batch and loss=callable(module, batch)"
            )


def _refuse(wanted: str) -> None:
    raise MisconfigurationException(f"CurvatureMonitor needs {wanted}")


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _has_length(loader: DataLoader[Any]) -> bool:
    try:
        return len(loader) > 0
    except TypeError:
        return False
