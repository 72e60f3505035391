"""What function space allocates beyond the closure's own graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from examples.benchmarks.gram import laplacian_loss
from torch_newton import find_residuals, gradient
from torch_newton.preconditioners.function_space import function_space

pytestmark = pytest.mark.usefixtures("float64")


def peak_numbers(call: Callable[[], object]) -> float:
    """The most memory held at once by what `call` allocates, in float64 numbers."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        held = call()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
        if event.name() == "[memory]"
    ]
    peak = now = 0
    for _, change in sorted(changes):
        now += change
        peak = max(peak, now)
    del held
    return peak / 8


def test_the_meter_counts_what_is_held_at_once() -> None:
    def twice() -> Tensor:
        first = torch.ones(1000)
        del first
        return torch.ones(1500)

    assert peak_numbers(twice) == pytest.approx(1500, rel=0.05)


def network(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((2, width), (width, width), (width, width), (width, 1)):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("rows", [100, 300])
@pytest.mark.parametrize("kind", ["laplacian", "regression", "two terms"])
def test_peak_memory_is_a_few_times_the_largest_layers_rows(kind: str, rows: int) -> None:
    torch.manual_seed(0)
    net, points = network(48), torch.rand(rows, 2)
    if kind == "laplacian":
        loss = laplacian_loss(net, points)
    elif kind == "regression":
        loss = net(points).square().mean()
    else:
        half = rows // 2
        loss = laplacian_loss(net, points[:half]) + net(points[half:]).square().mean()
    params = list(net.parameters())
    g = gradient(loss, params)
    peak = peak_numbers(lambda: function_space(find_residuals(loss), params, g))
    assert peak <= 3 * rows * 48**2 + rows**2
