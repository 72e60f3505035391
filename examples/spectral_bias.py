"""Spectral bias on a real record: what Adam and RegNewton leave of each frequency, over time.

    python examples/spectral_bias.py

Twelve years of monthly CO2 at Mauna Loa are a trend, a yearly cycle and its harmonics. A tanh
network of time alone fits them, by Adam (the best of three rates) and by RegNewton for equal time
under a `CurvatureMonitor`. Drawn are what the residual holds in three bands of frequency over
seconds of training, and the spectra of two kernels when each was measured last. Gradient descent
removes modes at rates proportional to the eigenvalues of the NTK, which fall over many decades; a
Newton step removes the share kappa/(kappa + lambda) of each, which is near one for all kappa above
lambda. For Adam, which has no lambda, it is the one that the width rule gives.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from statsmodels.datasets import co2
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from lightning_callbacks import CurvatureMonitor
from torch_newton import RegNewton

BANDS = {
    "trend": (0.0, 0.6),
    "yearly cycle": (0.6, 1.5),
    "its harmonics": (1.5, 3.5),
}
"""Lowest and highest frequency, in cycles a year."""

FITTED = 1e-16
"""A run ends early at this loss: after it lambda follows rounding errors."""

OPTIMIZERS = {
    "Adam, rate 3e-2": lambda params: torch.optim.Adam(params, lr=3e-2),
    "Adam, rate 1e-2": lambda params: torch.optim.Adam(params, lr=1e-2),
    "Adam, rate 3e-3": lambda params: torch.optim.Adam(params, lr=3e-3),
    "RegNewton": lambda params: RegNewton(params, curvature="gauss_newton"),
}


@dataclass(frozen=True)
class Record:
    """Monthly means.

    Attributes:
        years: decimal years, M entries.
        x: M x 1, time from -1 to 1.
        y: M x 1, concentrations with mean 0 and standard deviation 1.
        ppm: how many parts per million one unit of y is.
    """

    years: Tensor
    x: Tensor
    y: Tensor
    ppm: float


def load(first: int = 1976, last: int = 1987) -> Record:
    monthly = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    monthly = monthly[(monthly.index.year >= first) & (monthly.index.year <= last)]
    ppm = torch.tensor(monthly.to_numpy())
    years = first + (torch.arange(len(ppm), dtype=torch.float64) + 0.5) / 12
    x = torch.linspace(-1, 1, len(ppm), dtype=torch.float64)[:, None]
    scale = float(ppm.std())
    return Record(years, x, ((ppm - ppm.mean()) / scale)[:, None], scale)


def band_energy(residual: Tensor) -> dict[str, float]:
    """OutputHessianRoot mean square of a monthly residual in each band, after a Hann window."""
    window = torch.hann_window(len(residual), dtype=residual.dtype)
    power = torch.fft.rfft(residual * window).abs().square()
    power[1:] *= 2  # the negative frequencies
    power /= len(residual) * window.square().sum()
    frequency = torch.fft.rfftfreq(len(residual), 1 / 12)
    return {
        name: float(power[(frequency >= low) & (frequency < high)].sum().sqrt())
        for name, (low, high) in BANDS.items()
    }


class Fit(pl.LightningModule):
    def __init__(self, optimizer: str, width: int = 100) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )
        with torch.no_grad():  # features at the scale of months, the same for all optimizers
            self.net[0].weight.mul_(20)
            self.net[0].bias.mul_(20)
        self.optimizer = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](self.parameters())


@dataclass
class History(pl.Callback):
    """Notes the bands after steps 1, 2, 3, 4, 6, ... and stops when the time is over.

    Attributes:
        monitor: its time, and the time spent here, is not counted as training.
        ntk: the eigenvalues at each measurement of the monitor, by step.
        nntk: the same.
    """

    record: Record
    monitor: CurvatureMonitor
    seconds: float
    times: list[float] = field(default_factory=list)
    bands: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in BANDS})
    loss: float = float("inf")
    ntk: dict[int, Tensor] = field(default_factory=dict)
    nntk: dict[int, Tensor] = field(default_factory=dict)
    began: float = 0.0
    own: float = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: Fit) -> None:
        self.began = time.perf_counter()
        self.note(module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Fit, outputs: dict[str, Tensor], *_: object
    ) -> None:
        start = time.perf_counter()
        step, elapsed = self.monitor.measured_at, self.elapsed
        if step is not None and step not in self.ntk and "ntk" in self.monitor.spectra:
            self.ntk[step] = self.monitor.spectra["ntk"]
            self.nntk[step] = self.monitor.spectra["nntk"]
        if elapsed > 1.07 * self.times[-1] + 1e-3 or float(outputs["loss"]) < FITTED:
            self.note(module, elapsed)
        if elapsed > self.seconds or self.loss < FITTED:
            trainer.should_stop = True
        self.own += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began - self.own - self.monitor.seconds

    def note(self, module: Fit, elapsed: float = 0.0) -> None:
        with torch.no_grad():
            residual = (module.net(self.record.x) - self.record.y)[:, 0]
        self.loss = float(residual.square().mean())
        self.times.append(elapsed)
        for name, energy in band_energy(residual).items():
            self.bands[name].append(energy * self.record.ppm)


def train(record: Record, optimizer: str, seconds: float) -> History:
    monitor = CurvatureMonitor(
        every_n_steps=5 if optimizer == "RegNewton" else 250,
        quantities=("ntk", "nntk"),
        max_overhead=0.5,
        effort="exact",  # all eigenvalues are drawn
    )
    history = History(record, monitor, seconds)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="64-true",
        callbacks=[monitor, history],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    batches = DataLoader([[record.x, record.y]] * 10_000_000, batch_size=None)
    trainer.fit(Fit(optimizer), batches)
    return history


def draw(record: Record, histories: dict[str, History], path: Path) -> None:
    """Bands over time on the left, and on the right the spectra at the end of each run."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    dashes = {"trend": "-", "yearly cycle": "--", "its harmonics": ":"}
    with mpl.rc_context(style):
        figure, grid = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
        left, right = grid[0]
        right.sharex(left)
        right.sharey(left)
        for axes, (name, history) in zip((left, right), histories.items(), strict=True):
            for band, energies in history.bands.items():
                axes.plot(history.times[1:], energies[1:], dashes[band], color="0.0", label=band)
            axes.set(xscale="log", yscale="log", xlabel="seconds of training", title=name)
        left.set_ylabel("residual in band, RMS (ppm)")
        left.legend(frameon=False, loc="lower left")
        for axes, kernel, label in (
            (grid[1][0], "ntk", r"eigenvalue of NTK, $J J^\top$"),
            (grid[1][1], "nntk", r"eigenvalue of NNTK, $\kappa/(\kappa+\lambda)$"),
        ):
            for (name, history), shade, marker in zip(
                histories.items(), ("0.55", "0.0"), "so", strict=True
            ):
                step = max(getattr(history, kernel))
                values = getattr(history, kernel)[step].flip(0)
                values = values[values > 0]
                axes.plot(
                    np.arange(1, len(values) + 1),
                    values,
                    marker,
                    markersize=3,
                    color=shade,
                    markerfacecolor="none" if marker == "s" else shade,
                    label=f"{name.split(',')[0]}, step {step:,}",
                )
            axes.set(yscale="log", xlabel="rank of eigenvalue", ylabel=label)
            axes.legend(frameon=False, loc="lower left")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, each")
    parser.add_argument("--output", type=Path, default=Path("output"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    record = load()
    histories = {name: train(record, name, options.seconds) for name in OPTIMIZERS}
    for name, history in histories.items():
        bands = ", ".join(f"{b} {energies[-1]:.1e}" for b, energies in history.bands.items())
        print(f"{name:16s} loss {history.loss:.2e}; left in ppm: {bands}")
    adam = min((n for n in histories if n != "RegNewton"), key=lambda n: histories[n].loss)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "spectral_bias.png"
    draw(record, {name: histories[name] for name in (adam, "RegNewton")}, path)
    print(f"picture  {path}")


if __name__ == "__main__":
    main()
