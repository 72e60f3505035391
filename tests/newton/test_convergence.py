"""When training has come to rest: no false alarm, and one evaluation a step from then on."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.benchmarks.problems import PROBLEMS
from tests.helpers import closure_of, mlp, randn
from torch_newton import CandidateSystem, Convergence, Path, RegNewton, Step
from torch_newton.newton.convergence import SETTLED, STALLED, Rest

pytestmark = pytest.mark.usefixtures("float64")
EPSILON = torch.finfo(torch.float64).eps


def steps_of(optimizer: RegNewton, closure: Callable[[], Tensor], number: int) -> Iterator[Step]:
    for _ in range(number):
        optimizer.step(closure)
        assert optimizer.last_step is not None
        yield optimizer.last_step


def noise(params: list[nn.Parameter], loss: Callable[[], Tensor]) -> float:
    """By how much the loss changes where each parameter is rounded to another number beside it."""
    kept, base = [p.detach().clone() for p in params], float(loss().detach())
    random, found = torch.Generator().manual_seed(0), 0.0
    for _ in range(3):
        for p, value in zip(params, kept, strict=True):
            signs = 2.0 * torch.randint(0, 2, value.shape, generator=random) - 1
            p.data.copy_(value * (1 + EPSILON * signs))
        found = max(found, abs(float(loss().detach()) - base))
    for p, value in zip(params, kept, strict=True):
        p.data.copy_(value)
    return found


def fit(model: nn.Module | None = None, seed: int = 1) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Nine numbers fitted by three parameters, which have one best value each."""
    model = nn.Sequential(mlp(2, 1), nn.Tanh()) if model is None else model
    x, y = randn(9, 2), randn(9, 1, seed=seed)
    return model, lambda: functional.mse_loss(model(x), y)


NAMES = (
    "nist-Roszman1-1", "nist-Kirby2-1", "nist-MGH10-1", "nist-Lanczos1-1", "rosenbrock",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_by_no_more_than_its_noise_after_the_sign(name: str) -> None:
    problem = PROBLEMS[name].build(0)
    optimizer = RegNewton(problem.params)
    steps, noises = [], []
    for step in steps_of(optimizer, closure_of(optimizer, problem.loss), 60):
        steps.append(step)
        noises.append(noise(problem.params, problem.loss))
    signs = [step.converged for step in steps]
    assert any(signs) or name == "nist-MGH10-1"  # which goes on falling
    for number, step in enumerate(steps[:-1]):
        if not step.converged:
            continue
        ahead = slice(number, number + 21)
        fall = step.loss_after - min(s.loss_after for s in steps[ahead])
        assert fall <= 10 * max(EPSILON * step.loss, *noises[ahead]), number
        later = steps[number + 1]
        assert later.attempts <= 1
        assert later.closure_calls - 2 <= 2 * later.negative_curvature or later.system.exact


def test_the_estimate_is_half_of_what_a_quadratic_has_to_fall_where_nothing_damps() -> None:
    curvatures = torch.tensor([4.0, 1.0, 0.25])
    x = nn.Parameter(torch.ones(3))
    optimizer = RegNewton([x], damping=1e-9, curvature="hessian")
    (step,) = steps_of(
        optimizer, closure_of(optimizer, lambda: (curvatures * x.square()).sum() / 2 + 1), 1
    )
    assert step.expected_reduction == pytest.approx(float(curvatures.sum()) / 2, rel=1e-6)
    assert step.convergence is None


def test_the_estimate_bounds_the_fall_along_one_eigenvector_at_any_damping() -> None:
    for damping in (1e-3, 1.0, 1e3):
        x = nn.Parameter(torch.ones(1))
        optimizer = RegNewton([x], damping=damping, curvature="hessian")
        (step,) = steps_of(optimizer, closure_of(optimizer, lambda x=x: x.square().sum() + 1), 1)
        assert 1.0 <= step.expected_reduction <= 2.0


@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_a_stationary_point_and_a_rounded_minimum(lr: float) -> None:
    at_rest = nn.Parameter(torch.zeros(2))
    optimizer = RegNewton([at_rest])
    (step,) = steps_of(optimizer, closure_of(optimizer, lambda: at_rest.square().sum() + 1), 1)
    assert step.convergence is Convergence.STATIONARY

    model, loss = fit()
    optimizer = RegNewton(model.parameters(), lr=lr)
    steps = list(steps_of(optimizer, closure_of(optimizer, loss), 60))
    assert steps[-1].convergence is Convergence.EXPECTED_REDUCTION
    assert not any(step.converged for step in steps[: SETTLED + 2])


def test_a_loss_that_never_falls_is_stalled_and_one_that_is_not_finite_elsewhere_too() -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = RegNewton([x])
    start = x.detach().clone()

    def loss() -> Tensor:
        return x.square().sum() * (1.0 if torch.equal(x.detach(), start) else math.nan)

    steps = list(steps_of(optimizer, closure_of(optimizer, loss), STALLED + 3))
    assert [step.converged for step in steps] == [False] * (STALLED - 1) + [True] * 4
    assert steps[-1].convergence is Convergence.STALLED
    assert [step.closure_calls for step in steps[-3:]] == [2] * 3


def test_a_learning_rate_of_zero_is_not_rest() -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = RegNewton([x], lr=0.0)
    steps = steps_of(optimizer, closure_of(optimizer, lambda: x.square().sum()), STALLED + 3)
    assert not any(step.converged for step in steps)


def test_another_batch_at_each_step_is_not_rest() -> None:
    model, x, y = mlp(2, 4, 1), randn(900, 2), randn(900, 1, seed=1)
    optimizer = RegNewton(model.parameters())
    for number in range(60):
        at = slice(15 * number, 15 * number + 15)
        optimizer.step(
            closure_of(optimizer, lambda at=at: functional.mse_loss(model(x[at]), y[at]))
        )
        assert not optimizer.last_step.converged


def test_it_goes_on_when_the_loss_changes() -> None:
    model, loss = fit()
    optimizer = RegNewton(model.parameters())
    *_, step = steps_of(optimizer, closure_of(optimizer, loss), 40)
    assert step.converged
    _, other = fit(model, seed=5)
    after = list(steps_of(optimizer, closure_of(optimizer, other), 40))
    assert not any(step.converged for step in after[:4])
    assert after[-1].loss_after < after[0].loss


def test_a_checkpoint_remembers_the_rest() -> None:
    model, loss = fit()
    optimizer = RegNewton(model.parameters())
    *_, step = steps_of(optimizer, closure_of(optimizer, loss), 40)
    assert step.converged
    other = RegNewton(model.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.last_step is not None
    assert other.last_step.convergence is step.convergence
    assert other._memory.rest == optimizer._memory.rest != Rest()


def test_a_mini_batch_step_says_nothing_of_rest() -> None:
    model, x, y = mlp(2, 4, 1), randn(9, 2), randn(9, 1, seed=1)
    optimizer = RegNewton(model.parameters(), curvature="kronecker")
    closure = closure_of(optimizer, lambda: functional.mse_loss(model(x), y))
    *_, step = steps_of(optimizer, closure, 30)
    assert step.convergence is None


def test_trials_of_other_systems_say_nothing_while_the_one_in_use_lowers_the_loss() -> None:
    # A network of 42 parameters that cannot fit a seventh of its 80 labels, in single precision.
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    x = torch.randn(80, 2)
    label = (x.sum(1) > 0).long()
    label[:12] = 1 - label[:12]
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = RegNewton(model.parameters())
    closure = closure_of(optimizer, lambda: functional.cross_entropy(model(x), label))
    steps = list(steps_of(optimizer, closure, 240))
    falls = [step.loss - steps[-1].loss_after for step in steps if step.converged]
    assert all(fall <= 10 * torch.finfo(torch.float32).eps * steps[-1].loss for fall in falls)


def of(system: CandidateSystem, loss: float, expected: float, fall: float = 0.0) -> Step:
    opened = Step.untried(
        iteration=1, loss=loss, gradient_norm=1.0, last=None, closure_calls=2, scale=1.0, width=1,
        path=Path.FUNCTION_SPACE, system=system,
    )  # fmt: skip
    return replace(opened, loss_after=loss - fall, attempts=1, expected_reduction=expected)


def test_a_step_that_expects_little_counts_unless_another_system_expects_more_still() -> None:
    step = of(CandidateSystem.HESSIAN, 1.0, 0.0)
    scaled = CandidateSystem.SCALED_HESSIAN
    counts = {
        "nothing else was solved": ((), 1),
        "it expected a thousandth": ((of(scaled, 1.0, 1e-3),), 0),
        "that has been gained since": ((of(scaled, 1.001, 1e-3),), 1),
        "what it expected is rounding": ((of(scaled, 1.0, 5 * EPSILON),), 1),
        "it said nothing": ((of(scaled, 1.0, math.inf),), 1),
    }
    for why, (others, settled) in counts.items():
        assert Rest().after(step, EPSILON, others).settled == settled, why


def test_at_rest_the_exact_hessian_is_not_put_to_the_test() -> None:
    model, loss = fit()
    optimizer = RegNewton(model.parameters(), curvature="hessian")
    steps = list(steps_of(optimizer, closure_of(optimizer, loss), 70))
    at_rest = [b for a, b in itertools.pairwise(steps) if a.converged]
    assert len(at_rest) > 40  # so that a test was due at step 64
    assert all(step.closure_calls == 2 for step in at_rest if not step.negative_curvature)
