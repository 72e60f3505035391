"""The choice of curvature and damping from step to step."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.helpers import closure_of
from torch_newton import CandidateSystem, ClosureError, Path, RegNewton, Step, Stop, WidthScaled
from torch_newton.curvature.gauss_newton import GaussNewton
from torch_newton.curvature.hessian import Hessian
from torch_newton.newton.bandit import PATIENCE, SHARE, TRIAL, History, Selections
from torch_newton.newton.memory import Memory
from torch_newton.newton.selection import select as select_system

pytestmark = pytest.mark.usefixtures("float64")

GN, SGN = CandidateSystem.GAUSS_NEWTON, CandidateSystem.SCALED_GAUSS_NEWTON
H, SH = CandidateSystem.HESSIAN, CandidateSystem.SCALED_HESSIAN
ALL = {GN: 5.0, SGN: 5.0, H: 14.0, SH: 14.0}
Gains = dict[CandidateSystem, float]


def a_step(system: CandidateSystem, gain: float, products: int = 0, accepted: bool = True) -> Step:
    return Step(
        iteration=1, loss=1.0, loss_after=math.exp(-gain), gradient_norm=1.0, damping=0.5,
        ratio=0.5, accepted=accepted, corrected=False, attempts=1, cg_iterations=0,
        products=products, closure_calls=2, stop=Stop.CONVERGED, negative_curvature=False,
        curvature_min=0.1, step_length=1.0, scale=3.0, width=16, path=Path.FUNCTION_SPACE,
        system=system,
    )  # fmt: skip


def cost_of(step: Step) -> float:
    """Two evaluations, two for the gradient and the Jacobian, two for a product of the Hessian."""
    return step.closure_calls + 2.0 + (2.0 * step.products if step.system.exact else 0.0)


def after(history: History, step: Step) -> History:
    return history.after(step, cost_of(step), ALL)


def select(gains: Gains, steps: int) -> list[CandidateSystem]:
    """The systems selected where a step of each gains what it gains, the exact at 4 products."""
    history, selected = History(), []
    for _ in range(steps):
        system = history.select(ALL)
        history = after(history, a_step(system, gains[system], 4 if system.exact else 0))
        selected.append(system)
    return selected


def test_a_trial_that_must_be_paid_for_waits() -> None:
    costs = {GN: 5.0, H: 28.0}
    history, first = History(), 0
    for number in range(1, 400):
        system = history.select(costs, to_come=False)
        if system == H:
            first = number
            break
        history = history.after(a_step(system, 0.01), 10.0, costs)
    # Two steps of 28 evaluations are a tenth of 56 steps of ten.
    assert first == 57


@pytest.mark.parametrize("path", [Path.FUNCTION_SPACE, Path.LOW_RANK])
def test_the_hessian_is_not_tried_early_where_steps_are_iterative(path: Path) -> None:
    systems = {GN: GaussNewton(), H: Hessian()}
    memory, selected = Memory(), []
    for _ in range(12):
        system = select_system(memory, systems)
        step = replace(a_step(system, 0.01), path=path)
        memory = replace(memory, last_step=step, history=memory.history.after(step, 8.0, ALL))
        selected.append(system)
    assert (H in selected) is (path is Path.FUNCTION_SPACE)


@pytest.mark.parametrize("best", list(ALL))
def test_the_system_that_gains_most_for_its_cost_is_selected_nearly_always(
    best: CandidateSystem,
) -> None:
    gains = dict.fromkeys(ALL, 1e-3) | {best: 0.05}
    selected = select(gains, 400)
    assert selected[-200:].count(best) >= 170


def test_gain_is_weighed_against_cost() -> None:
    # 4 products make an exact step three times as dear, and it gains but twice as much.
    assert select({GN: 0.01, SGN: 0.001, H: 0.02, SH: 0.001}, 300).count(GN) > 200
    assert select({GN: 0.01, SGN: 0.001, H: 0.06, SH: 0.001}, 300).count(H) > 200


def test_each_cheap_system_is_tried_at_once_and_a_dear_one_only_where_progress_is_slow() -> None:
    fast = select(dict.fromkeys(ALL, 2.0) | {GN: 2.5}, 12)
    assert fast[: 2 * TRIAL] == [GN] * TRIAL + [SGN] * TRIAL
    assert H not in fast
    slow = select(dict.fromkeys(ALL, 1e-3), 12)
    assert H in slow


@given(st.lists(st.floats(-1, 5), min_size=4, max_size=4), st.integers(1, 200))
def test_trials_cost_no_more_than_their_share(rates: list[float], steps: int) -> None:
    gains, history = dict(zip(ALL, rates, strict=True)), History()
    for _ in range(steps):
        system = history.select(ALL)
        history = after(history, a_step(system, gains[system], 4 if system.exact else 0))
    dear = 2.0 * 2 + 2.0 * 4 + 4.0
    assert history.tried <= SHARE * (history.spent + 1000.0) + 2 * TRIAL * dear
    assert history.step == steps


def test_a_system_that_fails_loses_its_place() -> None:
    history = History()
    for _ in range(20):
        history = after(history, a_step(GN, 0.1))
    assert history.best(ALL) == GN
    history = replace(
        history, selections={**history.selections, SGN.name: Selections(0.01, 4.0, 20, 0)}
    )
    for _ in range(10):
        history = after(history, a_step(GN, 0.0, accepted=False))
    assert history.best(ALL) == SGN


def test_trials_in_vain_become_rare() -> None:
    selected = select({GN: 0.5, SGN: 0.1, H: 0.1, SH: 0.1}, 600)
    at = [i for i, system in enumerate(selected) if system == SGN and selected[i - 1] != SGN]
    assert len(at) >= 3
    gaps = [b - a for a, b in pairwise(at)]
    assert gaps[0] >= PATIENCE
    assert gaps[-1] > 2 * gaps[0]


@given(st.permutations(list(ALL)), st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_history_survives_as_numbers(order: list[CandidateSystem], gains: list[float]) -> None:
    history = History()
    for i, gain in enumerate(gains):
        history = after(history, a_step(order[i % 4], gain))
    assert History.from_numbers(history.numbers()) == history
    assert History.from_numbers(History().numbers()) == History()


def net_and_loss(scale: float = 1.0) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.linspace(-1, 1, 20).unsqueeze(1)
    y = torch.sin(4 * x)
    return net, lambda: ((net(x * scale) - y) ** 2).mean()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set(ALL)),
        ({"curvature": "hessian"}, {H, SH}),
        ({"curvature": "gauss_newton"}, {GN, SGN}),
        ({"scaling": None}, {GN, H}),
        ({"scaling": "jacobian"}, {SGN, SH}),
        ({"curvature": "hessian", "scaling": None}, {H}),
        ({"damping": 0.1}, {H}),
        ({"damping": WidthScaled(gamma=1.0)}, {H}),
        ({"damping": 0.1, "curvature": "gauss_newton"}, {GN}),
        ({"damping": 0.1, "scaling": "jacobian"}, {SH}),
        ({"preconditioner": None}, {GN, H}),
    ],
)
def test_options_say_which_systems_are_selected(
    options: dict[str, object], expected: set[CandidateSystem]
) -> None:
    net, loss = net_and_loss()
    optimizer = RegNewton(net.parameters(), **options)
    selected = set()
    for _ in range(80):
        optimizer.step(closure_of(optimizer, loss))
        selected.add(optimizer.last_step.system)
    assert selected <= expected
    assert len(selected) >= min(2, len(expected))


def test_a_loss_that_is_not_recognised_leaves_the_exact_hessian() -> None:
    net, x = nn.Linear(1, 1), torch.linspace(-1, 1, 200).unsqueeze(1)
    optimizer = RegNewton(net.parameters())
    for _ in range(4):  # a norm in which too many samples interact
        optimizer.step(closure_of(optimizer, lambda: (1 + net(x) - x.sin()).prod()))
        assert optimizer.last_step.system == CandidateSystem.HESSIAN


def test_scaling_that_is_asked_for_and_cannot_be_had_is_an_error() -> None:
    net, x = nn.Linear(1, 1), torch.linspace(-1, 1, 200).unsqueeze(1)
    optimizer = RegNewton(net.parameters(), scaling="jacobian")
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ClosureError, match="scaling"):
        optimizer.step(closure_of(optimizer, lambda: (1 + net(x) - x.sin()).prod()))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    with pytest.raises(ValueError, match="preconditioner"):
        RegNewton(net.parameters(), scaling="jacobian", preconditioner=None)
    with pytest.raises(ValueError, match="scaling"):
        RegNewton(net.parameters(), scaling="diagonal")
