"""What CurvatureMonitor was asked for, and whether that can be done."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from .batch import OfBatch, takes_dataloader_iterator
from .compat import MisconfigurationException
from .quantities.base import Need, Quantity
from .quantities.table import QUANTITIES
from .settings import Settings

INTERVALS = ("step", "epoch")
EFFORTS = ("bounded", "exact")

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
    max_pause: float | None
    effort: str
    strict: bool
    progress_bar: tuple[str, ...] = ()

    @property
    def bounded(self) -> bool:
        """Whether the effort of a measurement follows from the time allowed for it."""
        return self.effort == "bounded" and (
            self.max_overhead is not None or self.max_pause is not None
        )

    def selected(self) -> list[Quantity]:
        """The quantities asked for, each name once, and last the numbers of RegNewton's step."""
        asked = [QUANTITIES[q] if isinstance(q, str) else q for q in self.quantities]
        return list({q.name: q for q in (*asked, QUANTITIES["newton"])}.values())

    @property
    def asks_for_step(self) -> bool:
        """Whether a quantity needs the last step of the optimizer."""
        return any(Need.STEP in q.needs for q in self.selected())

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
        if self.effort not in EFFORTS:
            _refuse(f"effort to be one of {', '.join(EFFORTS)}, not {self.effort!r}")
        for name in ("figures", "strict"):
            if not isinstance(getattr(self, name), bool):
                _refuse(f"{name} to be True or False, not {getattr(self, name)!r}")
        self._check_quantities()
        self._check_progress_bar()
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

    def _check_progress_bar(self) -> None:
        for key in self.progress_bar:
            # One of several optimizers has its number in front.
            name = re.sub(r"^\d+/", "", key) if isinstance(key, str) else ""
            if not any(quantity.documents(name) for quantity in self.selected()):
                _refuse(f"progress_bar to list keys that its quantities log, not {key!r}")

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

        if self.max_pause is not None and not (_is_number(self.max_pause) and self.max_pause > 0):
            _refuse(
                "max_pause to be a positive number of training steps, as 20, or None for no "
                f"limit, not {self.max_pause!r}"
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

    def without_loss(self, module: Any) -> str | None:
        """Why the module's own step gives no loss, and what to do; None where it gives one."""
        if self.loss is not None:
            return None
        if takes_dataloader_iterator(module):
            return (
                "curvature is measured on one fixed batch, but training_step(dataloader_iter) "
                "draws its batches itself: give CurvatureMonitor probe=batch and "
                "loss=callable(module, batch)"
            )
        return None


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
