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
    parser.add_argument(
        "--tuning", type=float, help="seconds of each run by which a rate is chosen"
    )
    parser.add_argument("--seeds", type=int, default=3, help="rates are tuned on the first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--curvatures", nargs="+", default=["auto", "kronecker"])
    parser.add_argument("--quick", action="store_true", help="one seed, 8 s, AdamW alone, tuned")
    parser.add_argument("--brief", action="store_true", help="one seed, 12 s, rates by 2.5 s")
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.seeds, given.peers = 8.0, 1, ["adamw"]
    if given.brief:
        given.seconds, given.seeds, given.tuning = 12.0, 1, 2.5
    if given.tuning is None:
        given.tuning = given.seconds
    return given


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


def compared(name: str, given: argparse.Namespace) -> None:
    print(f"{name}: {PROBLEMS[name].__doc__}", flush=True)
    peer, lr = tuned(name, given.tuning, given.peers)
    theirs = [train(name, seed, peers()[peer], lr, given.seconds) for seed in range(given.seeds)]
    for curvature in given.curvatures:
        shares = []
        for seed, their in enumerate(theirs):
            ours = train(name, seed, curvature, 1.0, given.seconds)
            print(f"  {curvature}, seed {seed}: {beside(ours, their, peer)}", flush=True)
            pairs = zip(ours.reached(their.end), their.reached(their.end), strict=True)
            shares.append([a / b for a, b in pairs])
        steps, times = (statistics.median(column) for column in zip(*shares, strict=True))
        print(
            f"  {curvature}: of the steps of {peer} {steps:.2f}, of its time {times:.2f} (medians)",
            flush=True,
        )
    print(flush=True)


def beside(ours: Run, theirs: Run, peer: str) -> str:
    (step, second), (their_step, their_second) = (run.reached(theirs.end) for run in (ours, theirs))
    return (
        f"to {theirs.end:.3g} {peer} takes {their_step:g} steps, {their_second:.1f} s, and "
        f"RegNewton {step:g} steps, {second:.1f} s ({ours.gradients:.2f} gradients a step along "
        f"Kronecker factors); accuracy {theirs.accuracy:.3f} and {ours.accuracy:.3f}; RegNewton "
        f"ends at {ours.end:.3g} after {ours.steps[-1]} steps"
    )


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    seconds = f"{given.seconds:g} s a run, rates by {given.tuning:g} s"
    print(f"PyTorch {torch.__version__}, {given.threads} threads, {seconds}")
    print(f"peers: {', '.join(peers())}\n")
    for name in given.problems:
        compared(name, given)


if __name__ == "__main__":
    main()
