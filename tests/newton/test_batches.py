"""Whether each step sees another batch, and which steps are taken then."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import generator, randn
from torch_newton import Path, RegNewton
from torch_newton.newton.batches import ENOUGH, Batches
from torch_newton.newton.contest import (
    EXACT,
    HORIZON,
    JUDGED,
    KRONECKER,
    PATIENCE,
    SHARE,
    SHORTEST,
    TRIAL,
    Contest,
)
from torch_newton.newton.memory import Memory

pytestmark = pytest.mark.usefixtures("float64")


def test_another_batch_is_told_by_its_loss_at_the_same_place() -> None:
    known = Batches(loss=2.0, place=1.0)
    assert known.seen(2.0 + 1e-5, 1.0).changes == 0
    assert known.seen(2.1, 1.0).changes == 1
    assert known.seen(2.1, 1.5).changes == 0, "the parameters were moved by somebody else"
    assert Batches(changes=1).seen(2.1, 1.0).changes == 1, "nothing is known"
    assert replace(known, changes=5).seen(2.0, 1.0).changes == 0
    assert replace(known, changes=ENOUGH - 1).seen(2.1, 1.0).vary


def test_dear_exact_steps_are_left_at_the_first_other_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch_newton.newton.iteration.cost_in_gradients", lambda *_: 1000.0)
    loop = Loop()
    for _ in range(4):
        loop.step()
    assert [path is Path.KRONECKER for path in loop.paths] == [False, True, True, True]
    loop.step(torch.arange(256))
    assert loop.batches.contest.spent < 1100.0, "steps along factors count for what they cost"


def test_one_change_is_not_enough_where_exact_steps_are_cheap() -> None:
    loop = Loop()
    for batch in (torch.arange(256), torch.arange(256, 512), torch.arange(256, 512)):
        loop.step(batch)
    assert not loop.batches.changes
    assert Path.KRONECKER not in loop.paths


def steps(contest: Contest, gains: dict[str, float], cost: float, number: int) -> list[Contest]:
    """What the contest makes of steps of which each kind always gains the same."""
    found = []
    for _ in range(number):
        contest = contest.after(cost if contest.kind == EXACT else 3.0)
        if contest.due:
            contest = contest.gained(gains[contest.kind])
        found.append(contest)
    return found


def test_what_gains_most_for_its_cost_is_used() -> None:
    for exact, best in ((0.2, EXACT), (0.05, KRONECKER), (-0.1, KRONECKER)):
        found = steps(Contest(), {EXACT: exact, KRONECKER: 0.1}, 4.0, 2 * TRIAL + 1)
        assert [c.kind for c in found[: 2 * TRIAL - 1]] == [EXACT] * (TRIAL - 1) + [
            KRONECKER
        ] * TRIAL
        assert found[-1].kind == best
        assert not found[-1].trial


def test_the_other_kind_is_tried_again_after_ever_longer_times() -> None:
    found = steps(Contest(), {EXACT: 0.0, KRONECKER: 0.1}, 2.0, 400)
    starts = [i for i in range(1, 400) if found[i].kind == EXACT != found[i - 1].kind]
    waits = [b - a - TRIAL for a, b in itertools.pairwise(starts)]
    assert waits[:3] == [2 * PATIENCE, 4 * PATIENCE, 8 * PATIENCE]


def test_exact_steps_that_are_too_dear_are_not_tried_until_they_are_paid_for() -> None:
    cost = 2 * SHARE * HORIZON / SHORTEST
    found = steps(Contest(), {EXACT: 9.0, KRONECKER: 0.1}, cost, 3000)
    first = next(i for i in range(1, 3000) if found[i].kind == EXACT)
    assert all(c.kind == KRONECKER for c in found[:first])
    assert SHARE * (found[first].spent + HORIZON) >= SHORTEST * cost


def test_trials_of_exact_steps_cost_no_more_than_their_share_in_all() -> None:
    for contest in steps(Contest(), {EXACT: 0.0, KRONECKER: 0.1}, 25.0, 3000):
        assert contest.tried <= SHARE * (contest.spent + HORIZON)


def test_exact_steps_in_use_that_gain_nothing_any_more_are_left() -> None:
    used = Contest(EXACT, length=4 * JUDGED, trial=False, rates={KRONECKER: 0.01, EXACT: 1.0})
    found = steps(used, {EXACT: -1.0, KRONECKER: 0.0}, 4.0, JUDGED + 2)
    assert found[-1].kind == KRONECKER


def test_it_is_kept_in_a_checkpoint() -> None:
    contest = steps(Contest(), {EXACT: 0.1, KRONECKER: 0.2}, 4.0, 20)[-1]
    memory = Memory(batches=Batches(1.0, 2.0, 3, True, contest))
    assert Memory.from_numbers(memory.numbers()) == memory


class Loop:
    """A regression in mini-batches of so much noise that steps cannot fit it."""

    def __init__(self, noise: float = 1.0, size: int = 32) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 1))
        self.x, self.random, self.size = randn(2048, 4), generator(1), size
        self.y = self.x[:, :1].sin() + noise * randn(2048, 1, seed=2)
        self.optimizer = RegNewton(self.net.parameters())
        self.paths: list[Path] = []

    def drawn(self) -> Tensor:
        return torch.randint(len(self.x), (self.size,), generator=self.random)

    def step(
        self, batch: Tensor | None = None, clip: float = math.inf, others: Sequence[Tensor] = ()
    ) -> None:
        """One step, with what `others` say added to the gradient, and clipped to a length."""
        batch = self.drawn() if batch is None else batch

        def closure() -> Tensor:
            if not others:
                self.optimizer.zero_grad()
            loss = F.mse_loss(self.net(self.x[batch]), self.y[batch])
            loss.backward()
            if clip < math.inf:
                nn.utils.clip_grad_norm_(self.net.parameters(), clip)
            return loss

        self.optimizer.zero_grad()
        for other in others:
            F.mse_loss(self.net(self.x[other]), self.y[other]).backward()

        self.optimizer.step(closure)
        assert self.optimizer.last_step is not None
        self.paths.append(self.optimizer.last_step.path)

    @property
    def batches(self) -> Batches:
        return self.optimizer._memory.batches


def test_steps_of_one_batch_are_left_alone() -> None:
    loop = Loop()
    for _ in range(30):
        loop.step(torch.arange(256))
    assert not loop.batches.changes
    assert Path.KRONECKER not in loop.paths


@pytest.mark.parametrize("clip", [0.5, math.inf])
@pytest.mark.parametrize("accumulated", [0, 3])
@pytest.mark.filterwarnings("ignore:the closure shortens the gradient")
def test_batches_are_told_apart_also_where_gradients_are_clipped_or_accumulated(
    clip: float, accumulated: int
) -> None:
    loop = Loop()
    for _ in range(24):
        loop.step(None, clip, [loop.drawn() for _ in range(accumulated)])
    assert loop.batches.vary
    assert Path.KRONECKER in loop.paths
    other, all_of_it = Loop(), torch.arange(256)
    for _ in range(12):
        other.step(all_of_it, clip, [all_of_it + 256] * accumulated)
    assert not other.batches.changes


def trained(loop: Loop, number: int) -> float:
    """The mean loss of all the data over the second half of the steps."""
    losses = []
    for _ in range(number):
        loop.step()
        losses.append(F.mse_loss(loop.net(loop.x), loop.y).item())
    return sum(losses[number // 2 :]) / (number - number // 2)


def test_batches_with_noise_are_trained_on_along_kronecker_factors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    chosen = trained(loop, 160)
    assert loop.batches.vary
    assert loop.paths.count(Path.KRONECKER) >= 80
    monkeypatch.setattr(Batches, "vary", False)
    other = Loop()
    exact = trained(other, 160)
    assert Path.KRONECKER not in other.paths
    assert chosen < 0.8 * exact


def test_batches_that_can_be_fitted_are_left_to_exact_steps() -> None:
    loop = Loop(noise=0.0, size=256)
    loop.net[1] = nn.Tanh()
    for _ in range(40):
        loop.step()
    assert loop.paths[-10:].count(Path.KRONECKER) == 0
    assert F.mse_loss(loop.net(loop.x), loop.y).item() < 1e-4


def test_a_user_who_goes_back_to_one_batch_gets_its_steps_back() -> None:
    loop = Loop()
    for _ in range(20):
        loop.step()
    for _ in range(12):
        loop.step(torch.arange(256))
    assert not loop.batches.vary
    assert loop.paths[-1] is not Path.KRONECKER


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped() -> None:
    loop, other = Loop(), Loop()
    for _ in range(17):
        loop.step()
    other.net.load_state_dict(loop.net.state_dict())
    other.random.set_state(loop.random.get_state())
    other.optimizer.load_state_dict(copy.deepcopy(loop.optimizer.state_dict()))
    for _ in range(12):
        loop.step()
        other.step()
    for a, b in zip(loop.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options",
    [{"curvature": "gauss_newton"}, {"damping": 0.1}, {"preconditioner": None}, {"scaling": None}],
)
def test_what_the_user_chose_stays(options: dict[str, Any]) -> None:
    loop = Loop()
    loop.optimizer = RegNewton(loop.net.parameters(), **options)
    for _ in range(20):
        loop.step()
    assert Path.KRONECKER not in loop.paths


def test_a_loss_without_factors_goes_on_with_exact_steps() -> None:
    loop = Loop()
    while Path.KRONECKER not in loop.paths:
        loop.step()
    x = loop.x[:64]

    def closure() -> Tensor:
        loop.optimizer.zero_grad()
        loss = (loop.net(x) @ loop.net(x).T).sin().mean()
        loss.backward()
        return loss

    loop.optimizer.step(closure)
    assert loop.optimizer.last_step is not None
    assert loop.optimizer.last_step.path is not Path.KRONECKER
    assert math.isfinite(loop.optimizer.last_step.loss_after)


def test_exact_steps_in_use_make_no_place_for_what_does_nothing() -> None:
    used = Contest(EXACT, length=4 * JUDGED, trial=False, rates={KRONECKER: 0.0, EXACT: 0.1})
    for along, kind in ((0.0005, EXACT), (0.05, KRONECKER)):
        gains = {EXACT: -0.002, KRONECKER: along}
        found = steps(used, gains, 5.0, JUDGED + TRIAL + 3)
        assert [c.kind for c in found].count(KRONECKER) >= TRIAL
        assert (found[-1].kind, found[-1].trial) == (kind, False)


def test_clearly_better_exact_steps_stay_longer() -> None:
    def length(along: float) -> int:
        found = steps(Contest(), {EXACT: 0.5, KRONECKER: along}, 5.0, 2 * TRIAL)
        assert found[-1].kind == EXACT
        return found[-1].length

    assert length(0.02) == 4 * length(0.2)
