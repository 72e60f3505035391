"""What function space allocates beyond the closure's own graph, and a step beyond a product."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from examples.benchmarks.gram import laplacian_loss
from examples.benchmarks.memory import PATHS, vectors
from torch_newton import RegNewton, find_residuals, gradient
from torch_newton.linalg import normal_equations
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    ["exact Hessian, no rows", "Gauss-Newton, no rows", "fixed damping"],
)
@pytest.mark.filterwarnings("ignore:the linear system of a step")
def test_a_step_takes_at_most_eight_parameter_vectors_above_a_product(path: str) -> None:
    torch.set_default_dtype(torch.float32)
    outputs, options = PATHS[path]
    for peak, left in vectors(10**6, 160, outputs, **options):
        assert peak <= 8
        assert left <= 1.05  # .grad; of the scaling D, two numbers for a row and a column


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "most"), [(16, 8.0), (160, 10.0)])
def test_rows_that_are_solved_with_in_double_precision_take_more(rows: int, most: float) -> None:
    torch.set_default_dtype(torch.float32)
    outputs, options = PATHS["defaults, 1 output"]
    # Vectors of the system count twice. 160 rows are 0.7 P numbers, and are held in double
    # precision and in scaled variables, too.
    assert all(peak <= most for peak, _ in vectors(10**6, rows, outputs, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preconditioner": None},
        {"curvature": "hessian"},
        {"preconditioner": "sampled_rows"},
        {"damping": 5.0, "preconditioner": None, "cg_max_iter": 20},
        {"hvp": "finite_difference", "preconditioner": None},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:the linear system of a step")
def test_a_step_leaves_nothing_for_the_garbage_collector(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, x = network(8), torch.rand(20, 2)
    optimizer = RegNewton(net.parameters(), **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    flags = gc.get_debug()
    for _ in range(4):
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            optimizer.step(closure)
            gc.collect()
            kept = [thing for thing in gc.garbage if isinstance(thing, Tensor)]
        finally:
            gc.set_debug(flags)
            gc.garbage.clear()
            gc.enable()
        assert not kept


@pytest.mark.parametrize("rows", [1000, 4000])
def test_the_matrix_of_the_normal_equations_takes_as_much_for_any_number_of_rows(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P^2 and some blocks of rows, where J itself would take R P = 2.4e6 numbers."""
    monkeypatch.setattr(normal_equations, "BLOCK", 2**16)
    torch.manual_seed(0)
    net, points = network(16), torch.rand(rows, 2)
    params = list(net.parameters())
    space = function_space(find_residuals(laplacian_loss(net, points)), params)
    assert space is not None
    assert not space.dual
    peak = peak_numbers(lambda: space.gram)
    assert peak <= 2 * space.size**2 + 4 * 2**16
