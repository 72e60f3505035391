"""How far mini-batch steps reach where batches are noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import generator, randn
from torch_newton import RegNewton
from torch_newton.newton import reach
from torch_newton.newton.memory import Memory, SystemMemory
from torch_newton.newton.reach import FACTOR, LEAST, NOTABLE, adapted
from torch_newton.newton.stochastic import EVERY_STEP, LONGEST, PERIOD, period

pytestmark = pytest.mark.usefixtures("float64")


def test_the_share_falls_where_the_next_batch_has_lost_and_grows_where_it_has_gained() -> None:
    assert adapted(1.0, -0.1) == FACTOR
    assert adapted(LEAST, -9.0) == LEAST
    assert adapted(0.5, 2 * NOTABLE) == pytest.approx(0.5 / FACTOR)
    assert adapted(1.0, 1.0) == 1.0
    assert [adapted(0.5, ratio) for ratio in (0.0, NOTABLE, math.nan)] == [0.5] * 3


def test_factors_are_updated_ever_more_rarely() -> None:
    found = [period(number) for number in range(EVERY_STEP, 1000)]
    assert found[0] == PERIOD
    assert found[-1] == LONGEST
    assert found == sorted(found)


class Loop:
    """Five classes that noise decides, more than the inputs do."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 5))
        self.x, self.random = randn(4096, 20), generator(1)
        self.y = (self.x[:, :5].tanh() + randn(4096, 5, seed=2)).argmax(1)
        self.optimizer = RegNewton(self.net.parameters(), curvature="kronecker")

    def step(self, batch: Tensor | None = None) -> None:
        if batch is None:
            batch = torch.randint(len(self.x), (100,), generator=self.random)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(self.x[batch]), self.y[batch])
            loss.backward()
            return loss

        self.optimizer.step(closure)

    @property
    def known(self) -> SystemMemory:
        return self.optimizer._memory.systems["kronecker"]

    def trained(self, steps: int) -> float:
        """The loss of all the data."""
        for _ in range(steps):
            self.step()
        return F.cross_entropy(self.net(self.x), self.y).item()


def test_noise_shortens_steps_and_the_loss_of_all_the_data_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    short = loop.trained(120)
    assert loop.known.reach < 0.6
    monkeypatch.setattr(reach, "LEAST", 1.0)
    other = Loop()
    long = other.trained(120)
    assert other.known.reach == 1.0
    assert short < 0.94 * long


def test_steps_of_one_batch_keep_their_length() -> None:
    loop = Loop()
    for _ in range(40):
        loop.step(torch.arange(256))
    assert loop.known.reach == 1.0


def test_it_is_kept_in_a_checkpoint_and_older_ones_do_without() -> None:
    memory = Memory(systems={"kronecker": SystemMemory(scale=2.0, reach=0.5)})
    numbers = memory.numbers()
    assert Memory.from_numbers(numbers) == memory
    del numbers["systems"]["kronecker"]["reach"]
    assert Memory.from_numbers(numbers).systems["kronecker"].reach == 1.0
