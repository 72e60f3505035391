"""What each client costs and gains: ``python -m examples.clients`` prints a table.

Lines: how many of a script that uses the package's default are altered or added for RegNewton.
Results: RegNewton after some steps, and the default after as much processor time, or time on the
clock where the example takes that; for each seed, and the median of their ratios.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Client:
    """A row.

    Attributes:
        module: the example.
        default: the optimizer that the package's users start with.
        measure: what is compared.
        lines: altered or added.
        steps: of RegNewton.
        options: of the example's functions.
    """

    module: str
    default: str
    measure: str
    lines: int
    steps: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join([self.module, *self.options.values()])

    def results(self, seed: int) -> tuple[float, float, float]:
        """Of RegNewton and of the default, and seconds of each."""
        module = importlib.import_module(f".{self.module}", __package__)
        newton, seconds = module.train_newton(self.steps, seed, **self.options)
        return newton, module.train_default(seconds, seed, **self.options), seconds


CLIENTS = (
    Client("deepxde_pdes", "L-BFGS", "loss", 1, 60, {"name": "diffusion"}),
    Client("deepxde_pdes", "L-BFGS", "loss", 1, 30, {"name": "poisson"}),
    Client("deepxde_pdes", "L-BFGS", "loss", 1, 20, {"name": "operator"}),
    Client("pykan_hello", "pykan's L-BFGS", "squared error", 11, 40),
    Client("pina_switch", "Adam 1e-3", "squared error", 2, 60),
    Client("torchphysics_points", "Adam 1e-3", "squared error", 1, 60),
    Client("pyg_graph", "Adam 0.01", "loss", 4, 60),
    Client("skorch_search", "SGD 0.01", "loss", 3, 30),
    Client("ignite_engine", "Adam 1e-3", "loss", 9, 100),
    Client("accelerate_loop", "Adam 1e-3", "loss", 4, 100),
    Client("huggingface_trainer", "AdamW 5e-5", "loss", 15, 60),
    Client("torchdiffeq_ode", "RMSprop 1e-3", "loss", 4, 50),
    Client("gpytorch_exact", "Adam 0.1", "negative log likelihood", 4, 40),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="modules")
    arguments = parser.parse_args()
    print("| client | lines | default | measure | seconds | RegNewton | default | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for client in CLIENTS:
        if arguments.only and client.module not in arguments.only:
            continue
        try:
            found = [client.results(seed) for seed in range(arguments.seeds)]
        except ImportError as error:
            print(f"| {client.name} | | | not installed: {error.name} | | | | |")
            continue
        newton, default = (", ".join(f"{r[i]:.1e}" for r in found) for i in (0, 1))
        ratio = statistics.median(other / own for own, other, _ in found)
        seconds = statistics.median(r[2] for r in found)
        print(
            f"| {client.name} | {client.lines} | {client.default} | {client.measure} "
            f"| {seconds:.1f} | {newton} | {default} | {ratio:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
