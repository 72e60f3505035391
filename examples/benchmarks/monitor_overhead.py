"""What CurvatureMonitor costs at its default settings, on the CO2 record.

    python -m examples.benchmarks.monitor_overhead

Each optimizer of examples/lightning_co2.py trains for about as many seconds as asked for, in turns
without the monitor and with it. Printed are the share of the training time that the monitor says it
spent, the ratio of the two wall times, how often it measured, and whether the weights came out bit
for bit the same.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))

from co2 import Record, load_co2
from lightning_co2 import NAMES, Regression

from lightning_callbacks import CurvatureMonitor


class Counter(pl.Callback):
    """Counts the measurements of a monitor that stands before it."""

    def __init__(self, monitor: CurvatureMonitor) -> None:
        self.monitor = monitor
        self.steps: set[int] = set()
        self.overhead = 0.0

    def on_train_batch_end(self, *arguments: object) -> None:
        if self.monitor.measured_at is not None:
            self.steps.add(self.monitor.measured_at)

    def on_train_end(self, *arguments: object) -> None:
        self.overhead = self.monitor.overhead


def train(
    record: Record, optimizer: str, steps: int, counter: Counter | None
) -> tuple[float, list[torch.Tensor]]:
    """Seconds and final weights of a run of so many steps."""
    pl.seed_everything(0, verbose=False)
    module = Regression(optimizer)
    seen = ~record.held_out
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="64-true",
        callbacks=[] if counter is None else [counter.monitor, counter],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    batch = (record.inputs[seen], record.targets[seen])
    start = time.perf_counter()
    trainer.fit(module, DataLoader([batch] * steps, batch_size=None))
    return time.perf_counter() - start, [p.detach() for p in module.parameters()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--optimizers", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in list(logging.root.manager.loggerDict):
        if "lightning" in name:
            logging.getLogger(name).setLevel(logging.ERROR)
    record = load_co2()
    print("optimizer   steps  measured  seconds  share measuring  wall time ratio  same bits")
    for name in options.optimizers:
        train(record, name, 20, None)
        steps = max(20, int(20 * options.seconds / train(record, name, 20, None)[0]))
        plain, watched, counters = [], [], []
        for _ in range(options.repeats):
            plain.append(train(record, name, steps, None))
            counters.append(Counter(CurvatureMonitor()))
            watched.append(train(record, name, steps, counters[-1]))
        same = all(torch.equal(a, b) for a, b in zip(plain[0][1], watched[0][1], strict=True))
        seconds = min(t for t, _ in plain)
        ratio = min(t for t, _ in watched) / seconds
        share = max(counter.overhead for counter in counters)
        measured = sum(len(counter.steps) for counter in counters) / len(counters)
        print(
            f"{NAMES[name]:10s} {steps:6d} {measured:9.1f} {seconds:8.1f} {share:15.1%} "
            f"{ratio:16.3f} {'yes' if same else 'NO':>10s}"
        )


if __name__ == "__main__":
    main()
