"""Steps along Kronecker factors, each of another batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import assert_close, generator, randn
from torch_newton import Fixed, MiniBatch, Path, RegNewton, Stop, find_residuals
from torch_newton.linalg.flat import flatten
from torch_newton.newton.stochastic_search import GAIN, KEPT
from torch_newton.preconditioners.kronecker import KroneckerFactored

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def network(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4), *last)


def data(n: int = 512) -> tuple[Tensor, Tensor]:
    x = randn(n, 6) * 10 ** torch.linspace(0, -1.5, 6)
    return x, (x / 10 ** torch.linspace(0, -1.5, 6)).square()[:, :4].argmax(1)


class Loop:
    """A training loop in mini-batches."""

    def __init__(self, net: nn.Module, size: int = 64, **options: Any) -> None:
        self.net, self.size = net, size
        self.x, self.y = data()
        self.random = generator(1)
        self.optimizer = RegNewton(
            options.pop("params", None) or net.parameters(), curvature="kronecker", **options
        )

    def loss(self, batch: Tensor) -> Tensor:
        return F.cross_entropy(self.net(self.x[batch]), self.y[batch])

    def step(self, batch: Tensor | None = None) -> None:
        if batch is None:
            batch = torch.randint(len(self.x), (self.size,), generator=self.random)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()
            return loss

        self.optimizer.step(closure)

    def whole(self) -> float:
        with torch.no_grad():
            return float(self.loss(torch.arange(len(self.x))))


def steps_of_adam(loop: Loop, lr: float, target: float) -> int:
    net = copy.deepcopy(loop.net)
    random, optimizer = generator(1), torch.optim.Adam(net.parameters(), lr)
    for step in range(1, 2000):
        batch = torch.randint(len(loop.x), (loop.size,), generator=random)
        optimizer.zero_grad()
        F.cross_entropy(net(loop.x[batch]), loop.y[batch]).backward()
        optimizer.step()
        with torch.no_grad():
            if float(F.cross_entropy(net(loop.x), loop.y)) < target:
                return step
    return 2000


def test_it_takes_a_third_of_the_steps_of_adam_and_less_than_two_and_a_half_gradients() -> None:
    loop = Loop(network())
    start = copy.deepcopy(loop.net)
    cost = []
    for _ in range(50):
        loop.step()
        assert loop.optimizer.last_step is not None
        cost.append(loop.optimizer.last_step.gradients)
    target = loop.whole()
    loop.net = start
    assert target < 0.5 * loop.whole()
    adam = min(steps_of_adam(loop, lr, target) for lr in (1e-3, 3e-3, 1e-2, 3e-2))
    assert adam >= 3 * 50
    assert sum(cost) / len(cost) <= 2.5


def test_a_step_is_that_of_the_formula() -> None:
    loop = Loop(network())
    for number in range(3):
        before = flatten(p.detach() for p in loop.net.parameters())
        last = loop.optimizer.state
        params = list(loop.net.parameters())
        kept = [last[p]["kronecker_step"] for p in params] if number else None
        batch = torch.arange(64) + 64 * number
        loss = loop.loss(batch)
        g = flatten(torch.autograd.grad(loss, params, retain_graph=True))
        G = find_residuals(loss).gauss_newton(params).dense()
        loop.step(batch)
        step = loop.optimizer.last_step
        assert step is not None
        assert step.accepted
        assert step.attempts == 1
        d = -KroneckerFactored.kept(loop.optimizer.state, params).solve(g, step.damping)
        alpha = float(-g @ d) / float(d @ (G @ d) + step.damping * d @ d)
        expected = alpha * d if kept is None else KEPT * flatten(kept) + GAIN * alpha * d
        moved = flatten(p.detach() for p in params) - before
        # alpha is taken by a difference, whose error is of the size of the move it is taken by.
        assert_close(moved, expected, tol=1e-4)
        curvature = float(expected @ (G @ expected))
        predicted = -float(g @ expected) - curvature / 2
        assert step.loss - step.loss_after == pytest.approx(step.ratio * predicted, rel=1e-3)


def test_last_step_says_what_was_done() -> None:
    loop = Loop(network())
    for _ in range(13):
        loop.step()
    step = loop.optimizer.last_step
    assert step is not None
    assert step.path is Path.KRONECKER
    assert step.system.name == "kronecker"
    assert step.stop is Stop.CONVERGED
    assert step.products == step.cg_iterations == 0
    assert math.isnan(step.ratio)
    assert math.isnan(step.loss_after)
    assert step.gradients == pytest.approx(1 + 2 / 3)  # a forward evaluation, and K's backward


def test_a_step_that_raises_the_loss_of_its_batch_is_taken_back() -> None:
    w = nn.Parameter(torch.ones(1))
    optimizer = RegNewton([w], curvature="kronecker", damping=MiniBatch(start=0.1))

    def closure() -> Tensor:
        optimizer.zero_grad()
        z = w * torch.tensor([1.0]) + 100 * (1 - w).clamp(min=0.05)  # flat first, then a wall
        loss = z.square().mean()
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    step = optimizer.last_step
    assert step is not None
    assert step.attempts > 1
    assert closure().item() < before


def test_a_loss_that_is_not_finite_is_taken_back() -> None:
    w = nn.Parameter(torch.ones(1))
    optimizer = RegNewton([w], curvature="kronecker", damping=MiniBatch(start=1e-6))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (w.square() * torch.where(w < 0.5, math.nan, 1.0)).square().mean()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
        assert float(w) >= 0.5


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped() -> None:
    loop = Loop(network())
    for _ in range(12):
        loop.step()
    other = Loop(copy.deepcopy(loop.net))
    other.random.set_state(loop.random.get_state())
    other.optimizer.load_state_dict(copy.deepcopy(loop.optimizer.state_dict()))
    for _ in range(4):
        loop.step()
        other.step()
    for a, b in zip(loop.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fails", range(1, 6))
def test_an_exception_leaves_everything_as_it_was(fails: int) -> None:
    loop, twin = (Loop(net) for net in [network()] for net in (net, copy.deepcopy(net)))
    for _ in range(2):
        loop.step()
        twin.step()
    calls, original = 0, loop.loss

    def failing(batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise KeyboardInterrupt
        return original(batch)

    loop.loss = failing  # type: ignore[method-assign]
    state = loop.random.get_state()
    try:
        loop.step()
    except KeyboardInterrupt:
        loop.random.set_state(state)
        loop.loss = original  # type: ignore[method-assign]
        loop.step()
    twin.step()
    for a, b in zip(loop.net.parameters(), twin.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_global_random_state_is_left_alone() -> None:
    loop = Loop(network())
    state = torch.get_rng_state()
    loop.step()
    assert torch.equal(state, torch.get_rng_state())


def test_groups_have_their_own_lengths_and_a_frozen_one_stands_still() -> None:
    net = network()
    frozen, free = list(net[0].parameters()), list(net[2].parameters())
    loop = Loop(net, params=[{"params": frozen, "lr": 0.0}, {"params": free}])
    before = [p.detach().clone() for p in (*frozen, *free)]
    for _ in range(3):
        loop.step()
    after = [*frozen, *free]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [False, False, True, True]


def test_parameters_that_are_frozen_later_start_new_means() -> None:
    loop = Loop(network())
    start = loop.whole()
    loop.step()
    loop.net[0].weight.requires_grad_(False)
    before = loop.net[0].weight.clone()
    for _ in range(20):
        loop.step()
    assert torch.equal(before, loop.net[0].weight)
    assert loop.whole() < start


def test_a_sum_of_micro_batches_takes_the_curvature_of_all() -> None:
    net = network()
    loop, other = Loop(net), Loop(copy.deepcopy(net))
    batch = torch.arange(64)
    loop.optimizer.zero_grad()
    loop.loss(batch).backward()

    def last() -> Tensor:
        loss = loop.loss(batch)
        loss.backward()
        return loss

    loop.optimizer.step(last)
    scaled = other.loss
    other.loss = lambda b: 2 * scaled(b)  # type: ignore[method-assign]
    other.step(batch)
    for a, b in zip(loop.net.parameters(), other.net.parameters(), strict=True):
        assert_close(a, b, tol=1e-6)


def test_to_maximize_the_opposite_is_the_same() -> None:
    net = network()
    loop, other = Loop(net), Loop(copy.deepcopy(net), maximize=True)
    original = other.loss
    other.loss = lambda b: -original(b)  # type: ignore[method-assign]
    for _ in range(3):
        loop.step()
        other.step()
    for a, b in zip(loop.net.parameters(), other.net.parameters(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("damping", [0.1, Fixed(0.1), "auto", "mini_batch", "width"])
def test_it_works_with_any_rule(damping: Any) -> None:
    loop = Loop(network(), damping=damping)
    before = loop.whole()
    for _ in range(10):
        loop.step()
    assert loop.whole() < before


def test_a_damping_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite and > 0"):
        Loop(network(), damping=0.0).step()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: network(nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4)),
    "dropout": lambda: network(nn.Dropout(0.05), nn.Tanh(), nn.Linear(4, 4)),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 32)), nn.Tanh(), nn.Linear(32, 4)
    ),
    "single precision": lambda: network(),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_lowers_the_loss_of_other_networks(name: str) -> None:
    loop = Loop(MODELS[name]())
    if name == "single precision":
        loop.net.float()
        loop.x = loop.x.float()
    before = loop.whole()
    for _ in range(40):
        loop.step()
    assert loop.whole() < 0.95 * before


def test_it_works_under_autocast() -> None:
    loop = Loop(network())
    loop.net.float()
    loop.x = loop.x.float()
    original, before = loop.loss, loop.whole()

    def half(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return original(batch)

    loop.loss = half  # type: ignore[method-assign]
    for _ in range(40):
        loop.step()
    assert loop.whole() < 0.9 * before
