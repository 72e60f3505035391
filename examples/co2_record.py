"""The weekly Mauna Loa CO2 record that ships in statsmodels, ready for a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from statsmodels.datasets import co2
from torch import Tensor, nn


@dataclass(frozen=True)
class Record:
    """Weekly CO2 concentrations, 1958 to 2001, without the weeks that were not measured.

    Attributes:
        years: decimal years, M entries, float64.
        ppm: parts per million by volume, M entries, float64.
        held_out: which weeks the fit does not see, about one in five, drawn at random.
    """

    years: Tensor
    ppm: Tensor
    held_out: Tensor

    @property
    def inputs(self) -> Tensor:
        """M x 3: time scaled to [-1, 1], and the season as a point on the unit circle."""
        return features(self.years, self.years)

    @property
    def targets(self) -> Tensor:
        """M x 1: concentrations with mean 0 and standard deviation 1."""
        return ((self.ppm - self.ppm.mean()) / self.ppm.std())[:, None]

    def error_in_ppm(self, loss: float) -> float:
        """The root mean square error that a mean squared error of `targets` stands for."""
        return math.sqrt(loss) * float(self.ppm.std())


def features(years: Tensor, record_years: Tensor) -> Tensor:
    """What the network sees of a date; `record_years` gives the scale of time."""
    low, high = record_years.min(), record_years.max()
    time = 2 * (years - low) / (high - low) - 1
    season = 2 * math.pi * years
    return torch.stack([time, season.sin(), season.cos()], dim=1)


def load_co2(seed: int = 0) -> Record:
    """The record; `seed` draws the held-out weeks."""
    weekly = co2.load_pandas().data["co2"].dropna()
    dates = weekly.index
    length = np.where(dates.is_leap_year, 366, 365)
    years = torch.tensor(np.asarray(dates.year + (dates.day_of_year - 1) / length))
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.rand(len(years), generator=generator) < 0.2
    return Record(years, torch.tensor(weekly.to_numpy()), held_out)


def network(hidden: int = 16) -> nn.Sequential:
    """A tanh network with two hidden layers, in double precision."""
    return nn.Sequential(
        nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
    ).double()
