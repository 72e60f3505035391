"""What CurvatureMonitor costs at its default settings, on ordinary networks.

    python -m examples.benchmarks.monitor_overhead [--models resnet-175k cnn] [--steps 600]

Each network trains by Adam on two threads, with the monitor and, where `--compare` is given, again
without. Printed are

- the median training step, without what was spent measuring;
- the largest share of the training time that measuring had taken at any moment after step 20;
- the longest single pause, in training steps, and how many pauses there were;
- the most memory that the process came to hold after the first pause began and had not held before
  it, in vectors of the size of the parameters: those of the measurement and the graph, which has
  the activations of its batch;
- the points that were measured, and for the first and the last of them the step, the step at which
  its Hessian's numbers were finished, and the largest eigenvalue with its bound;
- whether the weights came out bit for bit the same.

On a machine that is shared with other work, `--clock processor` takes the processor's time on one
thread for the wall time: then limits and shares are those of a quiet machine with one core.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
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
        self.pauses = 0
        self.memory: int | None = None
        self.finished: dict[int, tuple[int, float, float]] = {}

    def on_train_start(self, *arguments: object) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
        spent, now = self.monitor.seconds, time.perf_counter()
        training = now - self.began - spent
        self.steps.append(training - sum(self.steps))
        pause, self.before = spent - self.before, spent
        # In steps of that time: on a shared machine they are not always equally long.
        recent = sorted(self.steps[-50:])
        step = recent[len(recent) // 2]
        self.longest = max(self.longest, pause / step)
        self.pauses += pause > step / 10
        if trainer.global_step >= 20:
            self.worst = max(self.worst, spent / training)
        latest, at = self.monitor.latest, self.monitor.measured_at
        if at is not None and at not in self.finished and "hessian/lambda_max" in latest:
            found = latest["hessian/lambda_max"], latest["hessian/lambda_max_error"]
            self.finished[at] = (trainer.global_step, *found)
        if self.memory is None and trainer.global_step == 6:  # nothing is measured before
            self.memory = peak()


def peak() -> int:
    """The most bytes that this process has held so far."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


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
    size = sum(w.numel() for w in weights)
    vectors = (peak() - (watch.memory or 0)) / (4 * size)
    points = sorted(watch.finished.items())
    ends = "  ".join(
        f"{at}/{done} {value:.3g} +- {error:.2g}"
        for at, (done, value, error) in (points[:1] + points[-1:])[: max(1, len(points))]
    )
    return (
        f"{name:12s} {size:>10,} {1e3 * step:8.1f} {watch.worst:8.1%} {watch.longest:6.1f} "
        f"{watch.pauses:6d} {vectors:8.1f} {len(points):6d} {same:>4s}  {ends}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--models", nargs="+", choices=list(MODELS))
    parser.add_argument("--compare", action="store_true", help="also train without the monitor")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.clock == "processor":
        torch.set_num_threads(1)
        time.perf_counter = time.process_time
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for name in list(logging.root.manager.loggerDict):
        if "lightning" in name:
            logging.getLogger(name).setLevel(logging.ERROR)
    print(
        "network               P  ms/step    share  pause pauses  vectors points same  "
        "first and last: of step/at step lambda_max +- error"
    )
    for name in options.models or [name for name in MODELS if name not in LARGE]:
        print(line(name, options.steps, compare=options.compare), flush=True)


if __name__ == "__main__":
    main()
