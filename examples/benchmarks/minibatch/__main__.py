"""Prints, for each problem, what the best tuned peer does and what RegNewton does beside it."""

from __future__ import annotations

import argparse
import statistics
import warnings

import torch

from .contenders import peers
from .problems import PROBLEMS
from .training import Run, train


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m examples.benchmarks.minibatch", description=__doc__)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--peers", nargs="+", choices=list(peers()), help="all if not given")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each run")
    parser.add_argument("--seeds", type=int, default=3, help="rates are tuned on the first")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def tuned(name: str, seconds: float, chosen: list[str] | None) -> tuple[str, float]:
    """The peer that ends lowest on the first seed, and its rate."""
    best, found = float("inf"), ("", 0.0)
    for peer, contender in peers().items():
        if chosen is not None and peer not in chosen:
            continue
        ends = {lr: train(name, 0, contender, lr, seconds) for lr in contender.rates}
        lr = min(ends, key=lambda rate: ends[rate].end)
        run = ends[lr]
        print(
            f"  {peer:6s} at its best rate {lr:<6g}: loss {run.end:.3g} after "
            f"{run.steps[-1]} steps, accuracy {run.accuracy:.3f}",
            flush=True,
        )
        if run.end < best or not found[0]:
            best, found = run.end, (peer, lr)
    return found


def compared(name: str, seeds: int, seconds: float, chosen: list[str] | None) -> None:
    print(f"{name}: {PROBLEMS[name].__doc__}", flush=True)
    peer, lr = tuned(name, seconds, chosen)
    rows: list[tuple[Run, Run]] = []
    for seed in range(seeds):
        theirs = train(name, seed, peers()[peer], lr, seconds)
        ours = train(name, seed, None, 1.0, seconds)
        rows.append((theirs, ours))
        (step, second), (their_step, their_second) = (
            run.reached(theirs.end) for run in (ours, theirs)
        )
        print(
            f"  seed {seed}: to {theirs.end:.3g} {peer} takes {their_step:g} steps, "
            f"{their_second:.1f} s, and RegNewton {step:g} steps, {second:.1f} s "
            f"({ours.gradients:.2f} gradients a step); accuracy {theirs.accuracy:.3f} and "
            f"{ours.accuracy:.3f}; RegNewton ends at {ours.end:.3g} after {ours.steps[-1]} steps",
            flush=True,
        )
    shares = [
        [a / b for a, b in zip(ours.reached(t.end), t.reached(t.end), strict=True)]
        for t, ours in rows
    ]
    steps, times = (statistics.median(column) for column in zip(*shares, strict=True))
    print(f"  of the steps of {peer} {steps:.2f}, of its time {times:.2f} (medians)\n", flush=True)


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    print(f"PyTorch {torch.__version__}, {given.threads} threads, {given.seconds:g} s a run")
    print(f"peers: {', '.join(peers())}\n")
    for name in given.problems:
        compared(name, given.seeds, given.seconds, given.peers)


if __name__ == "__main__":
    main()
