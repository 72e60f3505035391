"""The damping of steps of which each sees another batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from torch_newton import Attempt, CandidateSystem, DampingContext, MiniBatch, Path, Step, Stop

CONTEXT = DampingContext(curvature=3.0, width=16, epsilon=2.0**-24)
STEP = Step(
    iteration=20, loss=1.0, loss_after=0.9, gradient_norm=1.0, damping=0.3, ratio=1.0,
    accepted=True, corrected=False, attempts=1, cg_iterations=0, products=0, closure_calls=2,
    stop=Stop.CONVERGED, negative_curvature=False, curvature_min=math.inf, step_length=1.0,
    scale=3.0, width=16, path=Path.KRONECKER, system=CandidateSystem("kronecker"),
)  # fmt: skip


def attempt(ratio: float) -> Attempt:
    return Attempt(1, True, math.inf, 0.1, ratio, False)


def test_it_opens_at_the_size_of_the_curvature_whatever_the_units_of_the_loss() -> None:
    rule = MiniBatch(start=2.0)
    assert rule(None, CONTEXT) == 6.0
    assert rule(None, replace(CONTEXT, curvature=300.0)) == 600.0


def test_it_follows_the_ratio_with_the_steps_since_the_last_test() -> None:
    rule = MiniBatch(omega=0.9, period=3)
    assert rule(STEP, CONTEXT) == pytest.approx(0.3 * 0.9**3)
    assert rule(replace(STEP, ratio=0.5), CONTEXT) == 0.3
    assert rule(replace(STEP, ratio=0.1), CONTEXT) == pytest.approx(0.3 / 0.9**3)
    assert rule(replace(STEP, iteration=4), CONTEXT) == pytest.approx(0.15)


def test_an_untested_or_refused_step_leaves_it_where_it_is() -> None:
    rule = MiniBatch()
    assert rule(replace(STEP, ratio=math.nan), CONTEXT) == 0.3
    assert rule(replace(STEP, accepted=False, damping=5.0), CONTEXT) == 5.0


def test_it_stays_above_its_floor_and_below_its_ceiling() -> None:
    assert MiniBatch(floor=0.1)(replace(STEP, damping=0.31), CONTEXT) == pytest.approx(0.3)
    high = replace(STEP, damping=3e6, ratio=0.0)
    assert MiniBatch()(high, CONTEXT) == 3e6
    assert MiniBatch().retry(2e6, attempt(-1), CONTEXT) == 3e6


def test_it_takes_back_what_raises_the_loss_of_its_own_batch() -> None:
    rule = MiniBatch()
    assert rule.accepts(attempt(-0.4))
    assert not rule.accepts(attempt(-0.6))
    assert rule.retry(1.0, attempt(-1.0), CONTEXT) == 4.0


def test_it_tests_the_first_steps_and_then_every_few() -> None:
    rule = MiniBatch(period=5)
    assert all(rule.tested(n) for n in range(1, 11))
    assert [n for n in range(11, 31) if rule.tested(n)] == [15, 20, 25, 30]


@pytest.mark.parametrize(
    "options",
    [{"start": 0.0}, {"start": math.inf}, {"omega": 0.0}, {"omega": 1.1}, {"period": 0},
     {"attempts": 0}, {"floor": -1.0}],
)  # fmt: skip
def test_constants_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="MiniBatch needs"):
        MiniBatch(**options)  # type: ignore[arg-type]
