"""Train a LightningModule for some seconds under CurvatureMonitor, and compare what came of it.

`resnet_images.py` and `small_gpt.py` use this for their two optimizers. Nothing in it is special
to RegNewton: it is an ordinary Trainer, with a callback that keeps the time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import pytorch_lightning as pl
import torch
from matplotlib.axes import Axes
from torch.utils.data import DataLoader
from tqdm import tqdm

from lightning_callbacks import CurvatureMonitor

LOOKS = {"Adam": ("-.", "tab:orange"), "RegNewton": ("-", "black")}
"""Line and colour of each optimizer."""


@dataclass
class Run:
    """What a training gave.

    Attributes:
        steps: optimizer steps.
        seconds: when the held-out data were evaluated, in seconds of training; evaluating them
            does not count, measuring curvature does.
        scores: what they gave, the numbers of `held_out` by then.
        curvature: step, and largest eigenvalue of the Hessian with its error bound.
        overhead: share of the training time that the monitor took.
        monitor: with its own record of the run.
    """

    steps: int = 0
    seconds: list[float] = field(default_factory=list)
    scores: list[Sequence[float]] = field(default_factory=list)
    curvature: list[tuple[int, float, float]] = field(default_factory=list)
    overhead: float = 0.0
    monitor: CurvatureMonitor | None = None


class Clock(pl.Callback):
    """Ends the training after some seconds, and evaluates on held-out data twenty times.

    Args:
        run: to be filled.
        seconds: of training.
        held_out: scores of the module on data that it does not see.
        monitor: whose numbers are kept.
        bar: a progress bar in seconds.
    """

    def __init__(
        self,
        run: Run,
        seconds: float,
        held_out: Callable[[pl.LightningModule], Sequence[float]],
        monitor: CurvatureMonitor,
        bar: tqdm,
    ) -> None:
        self.run, self.limit, self.held_out = run, seconds, held_out
        self.monitor, self.bar = monitor, bar

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began, self.elsewhere = time.perf_counter(), 0.0
        self.evaluate(module, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_) -> None:
        seconds = time.perf_counter() - self.began - self.elsewhere
        self.run.steps, self.run.overhead = trainer.global_step, self.monitor.overhead
        self.bar.n = min(seconds, self.limit)
        self.bar.set_postfix(
            steps=trainer.global_step, loss=f"{trainer.callback_metrics['loss']:.3f}"
        )
        trainer.should_stop = seconds >= self.limit
        if trainer.should_stop or seconds >= self.run.seconds[-1] + self.limit / 20:
            self.evaluate(module, seconds)
        known, step = self.monitor.latest, self.monitor.measured_at
        if "hessian/lambda_max" in known and step not in {at for at, *_ in self.run.curvature}:
            value, error = known["hessian/lambda_max"], known["hessian/lambda_max_error"]
            self.run.curvature.append((step, value, error))

    def evaluate(self, module: pl.LightningModule, seconds: float) -> None:
        began = time.perf_counter()
        module.eval()
        with torch.no_grad():
            self.run.scores.append(self.held_out(module))
        module.train()
        self.run.seconds.append(seconds)
        self.elsewhere += time.perf_counter() - began


def train(
    name: str,
    module: pl.LightningModule,
    data: DataLoader,
    held_out: Callable[[pl.LightningModule], Sequence[float]],
    seconds: float,
) -> Run:
    """Train with progress, the curvature being watched."""
    monitor = CurvatureMonitor(quantities=("hessian", "sharpness"))
    run = Run(monitor=monitor)
    look = "{desc}{bar:30} {n:.0f}/{total:.0f} s{postfix}"
    with tqdm(total=seconds, desc=f"{name:10}", bar_format=look) as bar:
        trainer = pl.Trainer(
            max_epochs=-1,
            accelerator="cpu",
            callbacks=[monitor, Clock(run, seconds, held_out, monitor, bar)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, data)
    return run


def table(runs: dict[str, Run], columns: Sequence[str]) -> str:
    """Steps and last scores, and what the monitor found and took."""
    heads = ["steps", *columns, "lambda_max of H", "error at most", "monitor"]
    lines = [f"{'':10}" + "".join(f"{head:>17}" for head in heads)]
    for name, run in runs.items():
        value, error = run.curvature[-1][1:] if run.curvature else (float("nan"),) * 2
        cells = [f"{run.steps}", *(f"{score:.3f}" for score in run.scores[-1])]
        cells += [f"{value:.3g}", f"{error:.2g}", f"{100 * run.overhead:.1f} %"]
        lines.append(f"{name:10}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


def draw_monitors(runs: dict[str, Run], stem: str, folder: Path) -> list[Path]:
    """What each monitor draws of its own record, as it does for any module."""
    paths = []
    for name, run in runs.items():
        if run.curvature:  # else the training was too short for a look at the Hessian
            paths.append(folder / f"{stem}_{name.lower()}.png")
            run.monitor.plot().savefig(paths[-1], dpi=100)
    return paths


def draw_scores(axes: Axes, runs: dict[str, Run], column: int, label: str) -> None:
    """A score on held-out data against seconds."""
    for name, run in runs.items():
        line, colour = LOOKS[name]
        axes.plot(run.seconds, [s[column] for s in run.scores], line, color=colour, label=name)
    axes.set(xlabel="training (s)", ylabel=label)
    axes.legend(frameon=False)


def draw_curvature(axes: Axes, runs: dict[str, Run]) -> None:
    """The largest eigenvalue of the Hessian against steps, with its error bound."""
    for name, run in runs.items():
        if run.curvature:
            steps, values, errors = zip(*run.curvature, strict=True)
            line, colour = LOOKS[name]
            axes.errorbar(steps, values, errors, fmt="o", ls=line, color=colour, ms=3, label=name)
    axes.set(xlabel="step", ylabel="largest eigenvalue of the Hessian", yscale="log")
    axes.set_xlim(left=0)
    low, high = axes.get_ylim()
    if high < 10 * low:  # a point alone would have an axis of its digits
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
    axes.set_title("bars: error bounds", fontsize="small")


def style() -> None:
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def arguments(description: str) -> argparse.Namespace:
    """--seconds and --output."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=120.0, help="for each run (default 120)")
    parser.add_argument("--output", type=Path, default=Path("output"), help="for the picture")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    return given
