"""What CurvatureMonitor costs at its default settings, on ordinary networks.

    python -m examples.benchmarks.monitor_overhead [--models resnet-175k cnn] [--steps 60]

Each network trains by Adam on two threads, with the monitor and then without. Printed are

- the median training step, without what was spent measuring;
- the step of the first measurement, and how many there were;
- the largest share of the training time that measuring had taken at any moment after step 20;
- the longest single pause, in training steps;
- the bounds that the last measurement gave of the largest eigenvalue of H;
- whether the weights came out bit for bit the same.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
import warnings

import pytorch_lightning as pl
import torch

from lightning_callbacks import CurvatureMonitor

from .monitor_models import LARGE, MODELS, made


class Watch(pl.Callback):
    """Follows the clock of a monitor that stands before it, by a clock of its own."""

    def __init__(self, monitor: CurvatureMonitor) -> None:
        self.monitor = monitor
        self.began, self.worst, self.longest, self.before = 0.0, 0.0, 0.0, 0.0
        self.steps: list[float] = []
        self.measured: list[int] = []
        self.known: dict[str, float] = {}

    def on_train_start(self, *arguments: object) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
        spent, now = self.monitor.seconds, time.perf_counter()
        training = now - self.began - spent
        self.steps.append(training - sum(self.steps))
        pause, self.before = spent - self.before, spent
        # In steps of that time: on a shared machine they are not always equally long.
        recent = sorted(self.steps[-50:])
        self.longest = max(self.longest, pause / recent[len(recent) // 2])
        if trainer.global_step >= 20:
            self.worst = max(self.worst, spent / training)
        self.known |= self.monitor.latest
        at = self.monitor.measured_at
        if at is not None and (not self.measured or at != self.measured[-1]):
            self.measured.append(at)


def train(name: str, steps: int, *callbacks: pl.Callback) -> list[torch.Tensor]:
    """The final weights of a run of so many steps."""
    module, loader = made(name)
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, loader)
    return [p.detach() for p in module.parameters()]


def line(name: str, steps: int, *, compare: bool) -> str:
    """The numbers of one network, as a row of the table."""
    monitor = CurvatureMonitor()
    watch = Watch(monitor)
    weights = train(name, steps, monitor, watch)
    same = "-"
    if compare:
        pairs = zip(weights, train(name, steps), strict=True)
        same = "yes" if all(torch.equal(a, b) for a, b in pairs) else "NO"
    step = sorted(watch.steps)[len(watch.steps) // 2]
    latest = watch.known
    value = latest.get("hessian/lambda_max", math.nan)
    error = latest.get("hessian/lambda_max_error", math.nan)
    first = watch.measured[0] if watch.measured else "-"
    return (
        f"{name:12s} {sum(w.numel() for w in weights):>10,} {1e3 * step:8.1f} {first!s:>6s} "
        f"{len(watch.measured):6d} {watch.worst:8.1%} {watch.longest:7.1f} "
        f"{value:10.3g} +- {error:<8.2g} {same:>4s}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--models", nargs="+", choices=list(MODELS))
    parser.add_argument("--compare", action="store_true", help="also train without the monitor")
    options = parser.parse_args()
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for name in list(logging.root.manager.loggerDict):
        if "lightning" in name:
            logging.getLogger(name).setLevel(logging.ERROR)
    print(
        "network              P  ms/step  first  times    share   pause  lambda_max +- error same"
    )
    for name in options.models or [name for name in MODELS if name not in LARGE]:
        print(line(name, options.steps, compare=options.compare), flush=True)


if __name__ == "__main__":
    main()
