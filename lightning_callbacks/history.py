"""What a monitor has measured, as a table of bounded size."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_ROWS = 2048
"""Measurements kept: more than a plot has pixels for, and with 60 numbers each about 4 MB."""

MAX_SPECTRA = 128
"""Measurements of which the eigenvalues are kept: with those of `MAX_VALUES` at most, 0.5 MB for
each matrix, and more columns than a heat map of a third of a page shows."""

MAX_VALUES = 256
"""Eigenvalues kept of a spectrum: as many as a kernel of a usual batch has."""


@dataclass(frozen=True)
class KeptSpectrum:
    """The eigenvalues of a matrix at one step, thinned where there are many.

    Attributes:
        values: ascending, float64; where there were more than `MAX_VALUES`, a quarter of these
            from each end, and the rest at equal distances in rank.
        weights: for how many eigenvalues each stands.
    """

    values: Tensor
    weights: Tensor

    @classmethod
    def of(cls, values: Tensor) -> KeptSpectrum:
        """Thin a spectrum."""
        values = values.detach().cpu().double().sort().values
        n, end = len(values), MAX_VALUES // 4
        if n <= MAX_VALUES:
            return cls(values, torch.ones(n, dtype=torch.float64))
        between = MAX_VALUES - 2 * end
        ranks = torch.linspace(end, n - 1 - end, between, dtype=torch.float64).round().long()
        index = torch.cat([torch.arange(end), ranks, torch.arange(n - end, n)])
        weights = torch.ones(MAX_VALUES, dtype=torch.float64)
        weights[end:-end] = (n - 2 * end) / between
        return cls(values[index], weights)


class Thinned:
    """A sequence of which, when it is full, every other entry is dropped, and the last never."""

    def __init__(self, size: int) -> None:
        self._size, self._every, self._count = size, 1, 0
        self._kept: list[Any] = []
        self._last: list[Any] = []

    def append(self, entry: Any) -> None:
        """Keep an entry for now."""
        self._last = [entry]
        if self._count % self._every == 0:
            self._kept.append(entry)
            self._last = []
        self._count += 1
        if len(self._kept) > self._size:
            if not self._last:
                self._last = self._kept[-1:]
            self._kept = self._kept[::2]
            self._every *= 2
            if self._kept[-1] is self._last[0]:
                self._last = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept + self._last)

    @property
    def last(self) -> Any:
        """The entry that was kept last, None where there is none."""
        return next(iter(self._last or self._kept[-1:]), None)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {
            "kept": list(self._kept), "last": list(self._last),
            "every": self._every, "count": self._count,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._kept, self._last = list(state["kept"]), list(state["last"])
        self._every, self._count = state["every"], state["count"]


class History:
    """One row for each measurement: ``step``, ``epoch`` and all numbers by their keys.

    Keys are those of the documentation of `CurvatureMonitor`, without ``log_key_prefix``. Rows of
    measurements that had no time for a number lack it. When there are more than `MAX_ROWS`, every
    other row is dropped, and from then on every other measurement is kept, and always the last:
    a run of any length is covered evenly, in bounded memory.

    >>> history = History()
    >>> history.append(0, 0, {"hessian/lambda_min": -1.0}, {})
    >>> history.append(10, 0, {"hessian/lambda_min": -0.5, "ntk/lambda_max": 2.0}, {})
    >>> history["hessian/lambda_min"]
    [-1.0, -0.5]
    >>> history["ntk/lambda_max"]
    [nan, 2.0]
    >>> list(history)[1]["step"], len(history)
    (10, 2)
    """

    def __init__(self) -> None:
        self._rows = Thinned(MAX_ROWS)
        self._spectra: dict[str, Thinned] = {}

    def append(
        self,
        step: int,
        epoch: int,
        numbers: Mapping[str, float],
        spectra: Mapping[str, Tensor],
        *,
        more: bool = False,
    ) -> None:
        """Add a measurement.

        Args:
            step: at which the parameters were those of the point.
            epoch: at which it was finished.
            numbers: by their keys.
            spectra: eigenvalues by the names of the quantities.
            more: whether these are further numbers of the last measurement, finished later.
        """
        last = self._rows.last if more else None
        if last is not None and last["step"] == step:
            last.update(numbers)
        else:
            self._rows.append({"step": step, "epoch": epoch, **numbers})
        for name, values in spectra.items():
            if len(values) and bool(torch.isfinite(values).all()):
                kept = self._spectra.setdefault(name, Thinned(MAX_SPECTRA))
                kept.append((step, KeptSpectrum.of(values)))

    @property
    def columns(self) -> list[str]:
        """``step``, ``epoch``, and the keys of all numbers in the order in which they came."""
        return list(dict.fromkeys(key for row in self._rows for key in row))

    def spectra(self, name: str) -> tuple[list[int], list[KeptSpectrum]]:
        """The steps at which all eigenvalues of a matrix were known, and these.

        Args:
            name: of the quantity: ``"hessian"``, ``"ntk"``, ``"nntk"``, ``"nntk_hessian"``.
        """
        entries = list(self._spectra.get(name, ()))
        return [step for step, _ in entries], [values for _, values in entries]

    def __len__(self) -> int:
        return len(list(self._rows))

    def __iter__(self) -> Iterator[dict[str, float]]:
        return (dict(row) for row in self._rows)

    def __getitem__(self, key: str) -> list[float]:
        """A column; NaN where a row lacks it.

        Raises:
            KeyError: no row has it.
        """
        if key not in self.columns:
            raise KeyError(f"{key!r} was never measured; there are {', '.join(self.columns)}")
        return [row.get(key, math.nan) for row in self._rows]

    def to_csv(self, path: str | Path) -> None:
        """Write the table, a line for each row."""
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return _needed("pandas", "to_pandas").DataFrame(list(self), columns=self.columns)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as a Parquet file, by pandas.

        Raises:
            ModuleNotFoundError: pandas is not installed, or neither pyarrow nor fastparquet is.
        """
        frame = self.to_pandas()
        if find_spec("pyarrow") is None and find_spec("fastparquet") is None:
            _needed("pyarrow", "to_parquet")
        frame.to_parquet(path)

    def state_dict(self) -> dict[str, Any]:
        """Numbers, tensors and containers of them, as a checkpoint holds."""
        spectra = {}
        for name, kept in self._spectra.items():
            state = kept.state_dict()
            for part in ("kept", "last"):
                state[part] = [(step, s.values, s.weights) for step, s in state[part]]
            spectra[name] = state
        return {"rows": self._rows.state_dict(), "spectra": spectra}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._rows.load_state_dict(state["rows"])
        self._spectra = {}
        for name, saved in state["spectra"].items():
            kept = dict(saved)
            for part in ("kept", "last"):
                kept[part] = [(step, KeptSpectrum(v, w)) for step, v, w in saved[part]]
            self._spectra[name] = Thinned(MAX_SPECTRA)
            self._spectra[name].load_state_dict(kept)


def _needed(module: str, method: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"History.{method} needs {module}: pip install {module}; or write a file with to_csv, "
            "which needs nothing"
        ) from error
