"""Golden trajectories: what RegNewton does on the benchmark suite, step by step.

``python -m tests.golden.record`` writes ``trajectories.json``, with the names of problems behind it
their trajectories alone; ``tests/test_golden.py`` reads it. A change of method on purpose writes it
anew, and its commit says what changed. For each of twelve problems, two seeds and two dampings the
file holds the loss and lambda before each of thirty steps (hexadecimal, so bit for bit), the system
each step was solved with, and the *horizon*: over how many steps a start that is moved by one part
in 10^15 stays within 1e-11. Training amplifies rounding, and beyond the horizon two machines differ
although both are right.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from examples.benchmarks.problems import PROBLEMS
from torch_newton import RegNewton

FILE = Path(__file__).with_name("trajectories.json")
STEPS = 30
SEEDS = (0, 1)
DAMPINGS = ("auto", "width")
NAMES = (
    "high-frequency-256", "rss-training", "small-regression", "circle", "relu-regression",
    "co2-record", "camera-sine", "poisson-2d", "poisson-5d", "heat", "reaction", "two-spirals",
)  # fmt: skip
CAP = 20
"""Products a solve may take under the fixed damping, where 1e-8 would need thousands."""


def cases() -> Iterator[tuple[str, int, str]]:
    """Problem, seed and damping of every trajectory."""
    return ((name, seed, damping) for name in NAMES for seed in SEEDS for damping in DAMPINGS)


def machine() -> dict[str, str]:
    """What must be the same for arithmetic to be the same bit for bit."""
    cpu = Path("/proc/cpuinfo")
    model = (
        [line for line in cpu.read_text().splitlines() if "model name" in line][:1]
        if (cpu.exists())
        else []
    )
    return {
        "processor": model[0].split(":")[1].strip() if model else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def trajectory(
    name: str, seed: int, damping: str, steps: int = STEPS, shift: float = 0.0
) -> dict[str, list[Any]]:
    """Losses, lambdas and systems of the first steps, from a start times 1 + `shift`."""
    default, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)  # a sum over several threads need not come out the same twice
    try:
        instance = PROBLEMS[name].build(seed)
        if shift:
            with torch.no_grad():
                for param in instance.params:
                    param.mul_(1 + shift)
        cap = {} if damping == "auto" else {"cg_max_iter": CAP}
        optimizer = RegNewton(instance.params, damping=damping, **cap)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = instance.loss()
            loss.backward()
            return loss

        found: dict[str, list[Any]] = {"loss": [], "damping": [], "system": []}
        for _ in range(steps):
            optimizer.step(closure)
            last = optimizer.last_step
            found["loss"].append(last.loss)
            found["damping"].append(last.damping)
            found["system"].append(system_of(last))
        return found
    finally:
        torch.set_default_dtype(default)
        torch.set_num_threads(threads)


def system_of(step: Any) -> str:
    """The candidate system of a step, as the file names it."""
    return str(step.system.name)


def horizon(known: dict[str, list[Any]], moved: dict[str, list[Any]], tolerance: float) -> int:
    """Over how many steps two trajectories agree."""
    rows = zip(
        known["loss"], moved["loss"], known["damping"], moved["damping"],
        known["system"], moved["system"], strict=True,
    )  # fmt: skip
    count = 0
    for a, b, c, d, e, f in rows:
        close = math.isclose(a, b, rel_tol=tolerance) and math.isclose(c, d, rel_tol=tolerance)
        if not (close and e == f):
            break
        count += 1
    return count


def main(names: Sequence[str]) -> None:
    """Write the file: all trajectories, or those of the problems named anew."""
    known = json.loads(FILE.read_text()) if names else {"runs": {}}
    if names and known["machine"] != machine():
        raise SystemExit("recorded on another machine: write all trajectories anew")
    for name, seed, damping in cases():
        if names and name not in names:
            continue
        found = trajectory(name, seed, damping)
        moved = [trajectory(name, seed, damping, shift=shift) for shift in (1e-15, -1e-15)]
        known["runs"][f"{name}/{seed}/{damping}"] = {
            "loss": [float(x).hex() for x in found["loss"]],
            "damping": [float(x).hex() for x in found["damping"]],
            "system": found["system"],
            "horizon": min(horizon(found, other, 1e-11) for other in moved),
        }
        print(name, seed, damping, file=sys.stderr)
    FILE.write_text(json.dumps({"machine": machine(), "runs": known["runs"]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
