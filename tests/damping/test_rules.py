from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers import closure_of, newton
from torch_newton import (
    Adaptive,
    Attempt,
    CandidateSystem,
    DampingContext,
    Fixed,
    KernelMin,
    Path,
    ResidualFollowing,
    Step,
    Stop,
    WidthScaled,
    width,
)
from torch_newton.damping import RetryingRule, damping_rule

pytestmark = pytest.mark.usefixtures("float64")

SCALE = DampingContext(curvature=3.0, width=16, epsilon=2.0**-52)

STEP = Step(
    iteration=4,
    loss=2.0,
    loss_after=1.0,
    gradient_norm=1.0,
    damping=0.5,
    ratio=0.5,
    accepted=True,
    corrected=False,
    attempts=1,
    cg_iterations=5,
    products=5,
    closure_calls=2,
    stop=Stop.CONVERGED,
    negative_curvature=False,
    curvature_min=0.1,
    step_length=1.0,
    scale=3.0,
    width=16,
    path=Path.PLAIN,
    system=CandidateSystem.HESSIAN,
)

ATTEMPT = Attempt(
    number=1, solved=True, curvature=0.1, predicted=1.0, ratio=-1.0, negative_curvature=False
)


def test_adaptive_starts_at_the_width_scaled_curvature() -> None:
    assert Adaptive()(None, SCALE) == pytest.approx(1e-2 * 3.0 / 16**0.25)
    assert Adaptive(start=10, exponent=0.5)(None, SCALE) == pytest.approx(10 * 3.0 / 4)
    assert Adaptive(start=1.0, exponent=0.0)(None, SCALE) == 3.0


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [
        (0.5, 1.0),
        (0.25, 1 + 0.125),
        (0.75, 1 - 0.125),
        (0.001, 1 + 0.998**3),
        (1.0, 1 / 3),
        (1.5, 1 / 3),
        (100.0, 1 / 3),
        (0.9, 1 - 0.8**3),
    ],
)
def test_adaptive_follows_the_ratio_as_nielsen_says(ratio: float, factor: float) -> None:
    step = replace(STEP, ratio=ratio)
    assert Adaptive()(step, SCALE) == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [(0.001, 1.0), (0.25, 1.0), (0.26, 0.5), (0.4, 0.5), (0.75, 0.5), (0.76, 0.2), (2.0, 0.2)],
)
@pytest.mark.parametrize("arm", [CandidateSystem.GAUSS_NEWTON, CandidateSystem.SCALED_GAUSS_NEWTON])
def test_adaptive_lowers_lambda_though_the_ratio_of_gauss_newton_stays_below_one(
    arm: CandidateSystem, ratio: float, factor: float
) -> None:
    assert Adaptive()(replace(STEP, system=arm, ratio=ratio), SCALE) == pytest.approx(0.5 * factor)


def test_adaptive_doubles_after_negative_curvature_whatever_the_ratio() -> None:
    for ratio in (0.1, 1.0):
        step = replace(STEP, ratio=ratio, negative_curvature=True)
        assert Adaptive()(step, SCALE) == 1.0


def test_adaptive_keeps_what_a_refused_step_has_learned() -> None:
    assert Adaptive()(replace(STEP, accepted=False, ratio=-1.0), SCALE) == 0.5


@given(st.floats(-1, 3), st.booleans(), st.booleans(), st.floats(1e-300, 1e300))
def test_adaptive_stays_between_floor_and_ceiling(
    ratio: float, accepted: bool, negative: bool, damping: float
) -> None:
    step = replace(
        STEP, ratio=ratio, accepted=accepted, negative_curvature=negative, damping=damping
    )
    for rule, floor in ((Adaptive(), 3e-12), (Adaptive(stochastic=True), 1e-2 * 3.0 / 2)):
        for value in (rule(step, SCALE), rule.retry(damping, ATTEMPT, SCALE)):
            assert floor * (1 - 1e-12) <= value <= 3e6 * (1 + 1e-12)


def test_floor_and_ceiling_have_the_stated_values() -> None:
    low, high = replace(STEP, damping=1e-300), replace(STEP, damping=1e300)
    assert Adaptive()(low, SCALE) == pytest.approx(3e-12, rel=1e-9, abs=0.0)
    single = replace(SCALE, epsilon=2.0**-23)
    assert Adaptive()(low, single) == pytest.approx(3.0 * 10 * 2.0**-23)
    assert Adaptive(stochastic=True)(low, SCALE) == pytest.approx(1e-2 * 3.0 / 2)
    assert Adaptive()(high, SCALE) == pytest.approx(3e6)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"number": 1}, 2.0),
        ({"number": 2}, 4.0),
        ({"number": 3}, 8.0),
        ({"number": 4}, 16.0),
        ({"number": 7}, 16.0),
        ({"predicted": -1.0}, 4.0),
        ({"predicted": 0.0}, 4.0),
        ({"predicted": math.nan}, 4.0),
        ({"solved": False, "curvature": -0.1}, 4.0),
        ({"solved": False, "curvature": -20.0}, 40.0),
        ({"solved": False, "curvature": math.nan}, 10.0),
        ({"solved": False, "curvature": math.inf}, 10.0),
    ],
)
def test_adaptive_raises_lambda_after_a_failed_attempt(
    change: dict[str, float], expected: float
) -> None:
    assert Adaptive().retry(1.0, replace(ATTEMPT, **change), SCALE) == expected


@pytest.mark.parametrize(
    ("ratio", "accepted"), [(1e-4, True), (0.99e-4, False), (-1.0, False), (math.nan, False)]
)
def test_adaptive_accepts_above_its_threshold(ratio: float, accepted: bool) -> None:
    assert Adaptive().accepts(replace(ATTEMPT, ratio=ratio)) is accepted


@given(st.floats(1e-6, 1e6), st.floats(0.01, 0.99), st.booleans())
def test_adaptive_is_proportional_to_the_loss(c: float, ratio: float, negative: bool) -> None:
    step = replace(STEP, ratio=ratio, negative_curvature=negative)
    scaled = replace(step, damping=c * step.damping)
    bigger = replace(SCALE, curvature=c * SCALE.curvature)
    assert Adaptive()(None, bigger) == pytest.approx(
        c * Adaptive()(None, SCALE), rel=1e-12, abs=0.0
    )
    assert Adaptive()(scaled, bigger) == pytest.approx(
        c * Adaptive()(step, SCALE), rel=1e-12, abs=0.0
    )


@given(st.integers(1, 10**6), st.floats(0.5, 0.99), st.floats(1e-3, 10), st.floats(0.1, 100))
def test_width_scaled_is_the_papers_formula(n: int, beta: float, gamma: float, q: float) -> None:
    rule = WidthScaled(gamma=gamma, beta=beta, loss_factor=q)
    scale = replace(SCALE, width=n)
    expected = q * gamma * n ** (1 - 2 * beta)
    assert rule(None, scale) == pytest.approx(expected)
    assert rule(STEP, scale) == pytest.approx(expected)


def test_width_scaled_does_not_depend_on_width_at_beta_one_half() -> None:
    rule = WidthScaled(gamma=0.3, beta=0.5)
    assert {rule(None, replace(SCALE, width=n)) for n in (1, 10, 1000)} == {0.3}


def test_which_rules_make_a_ratio_test() -> None:
    assert isinstance(Adaptive(), RetryingRule)
    assert isinstance(KernelMin(), RetryingRule)
    assert not isinstance(ResidualFollowing(), RetryingRule)
    assert not isinstance(WidthScaled(), RetryingRule)
    assert not isinstance(Fixed(1.0), RetryingRule)
    assert not isinstance(lambda last, scale: 1.0, RetryingRule)


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        (Adaptive, {"start": 0.0}),
        (Adaptive, {"start": -1.0}),
        (Adaptive, {"start": math.nan}),
        (Adaptive, {"start": math.inf}),
        (Adaptive, {"attempts": 0}),
        (WidthScaled, {"gamma": 0.0}),
        (WidthScaled, {"gamma": math.nan}),
        (WidthScaled, {"loss_factor": -1.0}),
        (WidthScaled, {"beta": 0.4}),
        (WidthScaled, {"beta": 1.0}),
        (WidthScaled, {"beta": math.nan}),
    ],
)
def test_rules_refuse_constants_out_of_range(
    rule: Callable[..., object], arguments: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=rule.__name__):
        rule(**arguments)


def test_names_numbers_and_rules_are_understood() -> None:
    assert damping_rule("auto") == Adaptive()
    assert damping_rule("width") == WidthScaled()
    assert damping_rule(0) == Fixed(0.0)
    assert damping_rule(0.25) == Fixed(0.25)
    rule = Adaptive(start=3.0)
    assert damping_rule(rule) is rule
    assert Fixed(0.25)(STEP, SCALE) == 0.25


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "newton"])
def test_bad_values_are_refused(value: float | str) -> None:
    with pytest.raises(ValueError, match="damping"):
        damping_rule(value)


@pytest.mark.parametrize("value", [None, True, [1.0], torch.ones(())])
def test_bad_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="a name, a number or a callable"):
        damping_rule(value)  # type: ignore[arg-type]


def test_callable_sees_the_last_step_and_the_scale() -> None:
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    seen: list[tuple[Step | None, DampingContext]] = []

    def rule(last: Step | None, scale: DampingContext) -> float:
        seen.append((last, scale))
        return 0.5 * (1 + len(seen))

    optimizer = newton([x], damping=rule, width=7)
    closure = closure_of(optimizer, lambda: x.square().sum())
    optimizer.step(closure)
    first = optimizer.last_step
    optimizer.step(closure)
    assert [last for last, _ in seen] == [None, first]
    assert first is not None
    assert first.damping == 1.0
    assert optimizer.last_step.damping == 1.5
    # The Hessian is 2 I, so |H g| / |g| = 2, at the first step and ever after.
    epsilon = torch.finfo(x.dtype).eps
    assert [scale for _, scale in seen] == [
        DampingContext(2.0, 7, epsilon, 5.0, 5.0),
        DampingContext(2.0, 7, epsilon, first.loss_after, 5.0),
    ]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_callable_that_returns_nonsense_is_refused_and_nothing_moves(value: float) -> None:
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = newton([x], damping=lambda last, scale: value)
    with pytest.raises(ValueError, match="the damping rule returned"):
        optimizer.step(lambda: x.square().sum())
    assert x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("damping", [0.3, 0.0])
def test_indefiniteness_is_measured_in_units_of_the_damping(damping: float) -> None:
    step = replace(STEP, damping=damping, curvature_min=-0.6)
    assert step.indefiniteness == (pytest.approx(2.0) if damping else math.inf)
    if damping:
        assert replace(step, curvature_min=0.4).indefiniteness == 0.0


def test_definite_hessian_is_not_called_indefinite_without_damping() -> None:
    assert replace(STEP, damping=0.0, curvature_min=0.4).indefiniteness == 0.0


def test_step_survives_the_way_through_numbers() -> None:
    for stop in Stop:
        for path in Path:
            step = replace(STEP, stop=stop, path=path, unread=("layer 3: CdistBackward0",))
            assert Step.from_numbers(step.numbers()) == step
            assert all(type(v) in (int, float, bool) for v in leaves(step.numbers()))


def leaves(numbers: dict[str, Any]) -> Iterator[Any]:
    """The values of nested dictionaries."""
    for value in numbers.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


def bare(n: int, inputs: int = 1) -> list[Tensor]:
    return [torch.zeros(n), torch.zeros(n, inputs), torch.zeros(n)]


def parameters(*layers: nn.Module) -> list[Tensor]:
    return [p for layer in layers for p in layer.parameters()]


WIDTHS: dict[str, tuple[Callable[[], list[Tensor]], int]] = {
    "MLP 2-64-64-1": (
        lambda: parameters(nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 1)),
        64,
    ),
    "one hidden layer of 1000": (lambda: parameters(nn.Linear(1, 1000), nn.Linear(1000, 1)), 1000),
    "784-128-10": (lambda: parameters(nn.Linear(784, 128), nn.Linear(128, 10)), 784),
    "CNN": (
        lambda: parameters(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(64, 10)),
        72,
    ),
    "transformer layer": (lambda: parameters(nn.TransformerEncoderLayer(64, 4, 256)), 256),
    "embedding and linear": (lambda: parameters(nn.Embedding(50_000, 64), nn.Linear(64, 5)), 64),
    "LSTM": (lambda: parameters(nn.LSTM(10, 32)), 32),
    "bare c, W, b": (lambda: bare(1000), 1000),
    "bare c, W, b in several dimensions": (lambda: bare(50, 80), 80),
    "vectors alone": (lambda: [torch.zeros(9), torch.zeros(())], 1),
    "a single linear layer": (lambda: parameters(nn.Linear(5, 3)), 5),
    "nothing": (list, 1),
    "an empty matrix": (lambda: [torch.zeros(0, 4)], 1),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_width_is_the_largest_fan_in(name: str) -> None:
    params, expected = WIDTHS[name]
    assert width(params()) == expected


def test_width_option_overrides_the_shapes() -> None:
    x = nn.Parameter(torch.ones(3, 4))
    for given_width, expected in ((None, 4), (100, 100)):
        optimizer = newton([x], width=given_width)
        optimizer.step(lambda: x.square().sum())
        assert optimizer.last_step.width == expected
        x.data.fill_(1.0)
