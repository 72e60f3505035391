"""Memory of a step in parameter vectors: python -m examples.benchmarks.memory [PARAMETERS ...].

For each way of solving it prints the peak of a step above a bare Hessian-vector product and what
stays allocated afterwards, both in vectors of P numbers.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from torch_newton import RegNewton
from torch_newton.autodiff.products import gradient_and_hessian

ROWS = 512
STEPS = 3
"""At the second step ``.grad`` is full, and a scaled system is tried at the third."""

PATHS: dict[str, tuple[int, dict[str, Any]]] = {
    "defaults, 1 output": (1, {}),
    "defaults, 10 outputs": (10, {}),
    "Kronecker factors": (10, {"curvature": "kronecker"}),
    "exact Hessian, no rows": (10, {"curvature": "hessian", "preconditioner": None}),
    "Gauss-Newton, no rows": (10, {"curvature": "gauss_newton", "preconditioner": None}),
    "sampled rows": (10, {"curvature": "hessian", "preconditioner": "sampled_rows"}),
    "fixed damping": (10, {"damping": 1e-3, "preconditioner": None, "cg_max_iter": 12}),
}
"""Outputs of the network, and options."""


@dataclass(frozen=True)
class Use:
    """Bytes that were allocated while something ran.

    Attributes:
        peak: the most at once.
        left: what remained.
    """

    peak: int
    left: int


def measured(call: Callable[[], object]) -> Use:
    """What `call` allocates on the CPU."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        held = call()
        del held
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    peak = now = 0
    for _, change in sorted(changes):
        now += change
        peak = max(peak, now)
    return Use(peak, now)


def network(parameters: int, outputs: int) -> nn.Sequential:
    """Three hidden layers between 64 inputs and the outputs, of about so many parameters."""
    width = round((parameters / 2) ** 0.5 - 20)
    layers: list[nn.Module] = [nn.Linear(64, width), nn.Tanh()]
    layers += [nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def vectors(parameters: int, rows: int, outputs: int, **options: Any) -> list[tuple[float, float]]:
    """For each step the peak above a bare Hessian product, and what it leaves, in units of P."""
    torch.manual_seed(0)
    model = network(parameters, outputs)
    params = list(model.parameters())
    x, y = torch.randn(rows, 64), torch.randn(rows, outputs)
    label = torch.randint(outputs, (rows,))
    unit = sum(param.nbytes for param in params)

    def loss_at() -> Tensor:
        z = model(x)
        if outputs == 1:
            return nn.functional.mse_loss(z, y)
        return nn.functional.cross_entropy(z, label)

    def product() -> object:
        g, H = gradient_and_hessian(loss_at(), params)
        return g, H @ torch.ones_like(g)

    bare = measured(product).peak
    optimizer = RegNewton(params, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    found = []
    for _ in range(STEPS):
        before = sum(param.grad.nbytes for param in params if param.grad is not None)
        use = measured(lambda: optimizer.step(closure))
        found.append(((use.peak - bare) / unit, (use.left + before) / unit))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parameters", nargs="*", type=float, default=[1e5, 1e6, 1e7])
    parser.add_argument("--double", action="store_true", help="in double precision")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64 if options.double else torch.float32)
    print(f"{'':24}{'P':>9}{'rows':>6}   peak at each step, left   (vectors of P numbers)")
    for size in map(int, options.parameters):
        # As many samples for a parameter as 512 for 10^7, whose activations are a ninth of P.
        many = max(8, round(ROWS * (size / 10**7) ** 0.5))
        for name, (outputs, kind) in PATHS.items():
            for rows in (many // 8, many):
                found = vectors(size, rows, outputs, **kind)
                peaks = " ".join(f"{peak:6.2f}" for peak, _ in found)
                print(f"{name:24}{size:9.0e}{rows:6d}   {peaks}   {found[-1][1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
