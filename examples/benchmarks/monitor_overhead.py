"""What CurvatureMonitor costs at its default settings, on ordinary networks.

    python -m examples.benchmarks.monitor_overhead [--models resnet-175k cnn] [--steps 600]

Each network trains by Adam on two threads, with the monitor and, where `--compare` is given, again
without: 600 steps, or 240 of the two large ones, a second each; `--quick` takes a tenth of that, in
which little is measured. Every finished network is a line of `--out`, and is not run
again; so the same command goes on where it was interrupted. Printed are

- the median training step, without what was spent measuring;
- the largest share of the training time that measuring had taken at any moment after step 20;
- the longest single pause, in training steps, and how many pauses there were;
- the most memory that the process came to hold after the first pause began and had not held before
  it, in vectors of the size of the parameters: those of the measurement and the graph, which has
  the activations of its batch (`monitor_memory` counts them exactly);
- the step at which all numbers of the Hessian were first known;
- the points that were measured, and for the first and the last of them the step, the step at which
  its Hessian's numbers were finished, and the largest eigenvalue with its bound;
- the keys that were NaN at the end;
- whether the weights came out bit for bit the same.

On a machine that is shared with other work, `--clock processor` takes the processor's time on one
thread for the wall time: then limits and shares are those of a quiet machine with one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from lightning_callbacks import QUANTITIES, CurvatureMonitor

from .monitor_models import LARGE, MODELS, made, train

STEPS, STEPS_OF_LARGE, QUICK = 600, 240, 10
"""Training steps; and by what `--quick` divides them. A ResNet-18 takes 10 of its steps' time until
its Hessian has numbers: the loss alone 0.3, with its gradient 1.0, three products of 2.6, and 0.4
with the vectors of each Lanczos step. The first measurement may take 15, from step 167 on. Where it
ends before, going on takes 1.5 (1.0 + 2.6 + 0.4) = 6, which at 9 % are there by step 233."""

HESSIAN = [key for key, _ in QUANTITIES["hessian"].documentation]
"""The keys that a complete look at the Hessian has."""


class Watch(pl.Callback):
    """Follows the clock of a monitor that stands before it, by a clock of its own."""

    def __init__(self, monitor: CurvatureMonitor, bar: tqdm) -> None:
        self.monitor, self.bar = monitor, bar
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
        if at is not None and at not in self.finished and set(HESSIAN) <= latest.keys():
            found = latest["hessian/lambda_max"], latest["hessian/lambda_max_error"]
            self.finished[at] = (trainer.global_step, *found)
        if self.memory is None and trainer.global_step == 6:  # nothing is measured before
            self.memory = peak()
        self.bar.set_postfix(points=len(self.finished), pauses=self.pauses)
        self.bar.update()


def peak() -> int:
    """The most bytes that this process has held so far."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


def weights_after(name: str, steps: int, *callbacks: pl.Callback) -> list[torch.Tensor]:
    """The final weights of a run of so many steps."""
    module, loader = made(name)
    train(module, loader, steps, *callbacks)
    return [p.detach() for p in module.parameters()]


def measured(name: str, steps: int, *, compare: bool) -> dict[str, Any]:
    """The numbers of one network."""
    monitor = CurvatureMonitor()
    with tqdm(total=steps, desc=name, leave=False, file=sys.stderr) as bar:
        watch = Watch(monitor, bar)
        weights = weights_after(name, steps, monitor, watch)
    same = "-"
    if compare:
        pairs = zip(weights, weights_after(name, steps), strict=True)
        same = "yes" if all(torch.equal(a, b) for a, b in pairs) else "NO"
    size = sum(w.numel() for w in weights)
    # Of gradient methods without momentum alone it is known above which sharpness they diverge.
    nan = [k for k, v in monitor.latest.items() if math.isnan(v) and k != "sharpness/limit"]
    return {
        "name": name,
        "steps": steps,
        "parameters": size,
        "step": sorted(watch.steps)[len(watch.steps) // 2],
        "share": watch.worst,
        "pause": watch.longest,
        "pauses": watch.pauses,
        "vectors": (peak() - (watch.memory or 0)) / (4 * size),
        "points": sorted(watch.finished.items()),
        "same": same,
        "nan": nan,
    }


def line(found: dict[str, Any]) -> str:
    """The numbers of one network, as a row of the table."""
    points = found["points"]
    ends = "  ".join(
        f"{at}/{done} {value:.3g} +- {error:.2g}"
        for at, (done, value, error) in (points[:1] + points[-1:])[: max(1, len(points))]
    )
    first = str(points[0][1][0]) if points else "none"
    return (
        f"{found['name']:12s} {found['parameters']:>10,} {found['steps']:5d} "
        f"{1e3 * found['step']:8.1f} {found['share']:8.1%} {found['pause']:6.1f} "
        f"{found['pauses']:6d} {found['vectors']:8.1f} {first:>6s} {len(points):6d} "
        f"{found['same']:>4s}  {ends}  {'NaN: ' + ', '.join(found['nan']) if found['nan'] else ''}"
    ).rstrip()


def known(path: Path | None) -> dict[str, dict[str, Any]]:
    """What earlier runs have written, by the names of the networks."""
    if path is None or not path.exists():
        return {}
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    return {row["name"]: row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help=f"{STEPS}, or {STEPS_OF_LARGE} of the large")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} times fewer steps")
    parser.add_argument("--compare", action="store_true", help="also train without the monitor")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--out", type=Path, help="JSON lines, one for each network")
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
        "network               P steps  ms/step    share  pause pauses  vectors  first points same "
        "first and last: of step/at step lambda_max +- error"
    )
    before = known(options.out)
    for name in options.models:
        found = before.get(name)
        if found is None:
            steps = options.steps or (STEPS_OF_LARGE if name in LARGE else STEPS)
            steps = max(1, steps // QUICK) if options.quick else steps
            found = measured(name, steps, compare=options.compare)
            if options.out is not None:
                with options.out.open("a") as file:
                    file.write(json.dumps(found) + "\n")
        print(line(found), flush=True)


if __name__ == "__main__":
    main()
