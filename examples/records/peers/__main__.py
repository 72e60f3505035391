"""Run the peers in JAX, in an environment with the extra: python -m examples.records.peers --help.

Results go to the folder of `python -m examples.records`, which shows them beside the others.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import equinox
import jax
import torch

from ..__main__ import names
from ..problem import Problem
from ..problems import PROBLEMS
from ..runner import Clock, default_dtype
from ..store import Run, Store
from .bridge import InJax
from .equations import EQUATIONS
from .methods import METHODS

SPACING = 1.01  # as in `runner`
WARM_UP = 3  # the state that a first call returns may have other weak types, and be compiled anew


def run(problem: Problem, method: str, seed: int, budget: float) -> Run:
    """Train for `budget` seconds after compilation, whose time is recorded apart."""
    record = Run(problem.name, method, seed, budget)
    with default_dtype(problem.dtype):
        torch.manual_seed(seed)
        training = problem.build(seed)
        record.curve.append((0.0, 0, float(training.loss().detach()), training.error()))
        inside = InJax(training, EQUATIONS[problem.name])
        try:
            _train(record, inside, method)
        except Exception as error:  # no memory, mostly; shown as such, and the others go on
            record.status = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return record


def _train(record: Run, inside: InJax, method: str) -> None:
    begin = time.perf_counter()
    first, advance = METHODS[method](inside)
    step, value = equinox.filter_jit(advance), jax.jit(inside.loss)
    # What is computed while compiling is thrown away.
    params, state = inside.params, first
    for _ in range(WARM_UP):
        params, state = jax.block_until_ready(step(params, state))
    jax.block_until_ready(value(params))
    params, state = inside.params, first
    record.compiled = time.perf_counter() - begin
    clock, calls, best = Clock(), 0, record.curve[0][3]
    while clock.seconds < record.budget:
        with clock:
            params, state = jax.block_until_ready(step(params, state))
        calls += 1
        record.steps = int(getattr(state, "num_accepted_steps", calls))
        if clock.seconds >= min(record.budget, SPACING * record.curve[-1][0]):
            inside.write(params)
            best = min(best, inside.training.error())
            record.curve.append((clock.seconds, record.steps, float(value(params)), best))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.records.peers", description=__doc__)
    parser.add_argument("--problems", type=names, default=list(EQUATIONS), help="a,b; all if none")
    parser.add_argument("--methods", type=names, default=list(METHODS), help="all if none")
    parser.add_argument("--seeds", type=names, default=["0", "1", "2"], help="0,1,2 if none")
    parser.add_argument("--seconds", type=float, default=1000.0, help="of each run, 1000 if none")
    parser.add_argument("--output", type=Path, default=Path("output/records"), help="for results")
    options = parser.parse_args()
    store = Store(options.output)
    for seed in map(int, options.seeds):
        for name in options.problems:
            for method in options.methods:
                if store.find(name, method, seed, options.seconds) is None:
                    done = run(PROBLEMS[name], method, seed, options.seconds)
                    store.add(done)
                    at, steps, loss, error = done.curve[-1]
                    print(
                        f"{name}, {method}, seed {seed}: error {error:.1e} after {at:.0f} s, "
                        f"{steps} steps, loss {loss:.1e}, compiled in {done.compiled:.0f} s "
                        f"({done.status})",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
