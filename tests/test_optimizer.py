from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.helpers import (
    Problem,
    assert_close,
    closure_of,
    mlp,
    newton,
    problem_of,
    randn,
    regression,
    same_bits,
    symmetric_with,
)
from torch_newton import (
    Adaptive,
    CandidateSystem,
    ClosureError,
    DampingContext,
    LinearOperator,
    NonFiniteLossError,
    Path,
    RegNewton,
    Step,
    Stop,
    WidthScaled,
    from_dense,
    identity,
)
from torch_newton.linalg.flat import flatten, unflatten

pytestmark = pytest.mark.usefixtures("float64")


def values(params: Sequence[Tensor]) -> Tensor:
    return flatten([p.detach() for p in params]).clone()


def dense_gradient(problem: Problem) -> Tensor:
    return flatten(torch.autograd.grad(problem.value(), problem.params, materialize_grads=True))


def step_of(problem: Problem, **options: Any) -> tuple[Tensor, Step]:
    """How far one step of a fresh optimizer moves the parameters, and its record."""
    before = values(problem.params)
    optimizer = newton(problem.params, **options)
    optimizer.step(closure_of(optimizer, problem.value))
    assert optimizer.last_step is not None
    return values(problem.params) - before, optimizer.last_step


@dataclass
class Counting:
    """A closure that counts its calls and does something else at one of them."""

    closure: Callable[[], Any]
    at: int | None = None
    instead: Callable[[], Any] = lambda: None
    calls: int = 0
    losses: list[float] = field(default_factory=list)

    def __call__(self) -> Any:
        self.calls += 1
        if self.calls == self.at:
            result = self.instead()
            if result is not None:
                return result
        loss = self.closure()
        self.losses.append(loss.item())
        return loss


# One step against linear algebra.


@pytest.mark.parametrize(
    "eigenvalues", [[0.5, 1, 2, 8], [-1, 0.5, 2, 3], [-3, -2, -1, -0.5]], ids=["+", "saddle", "-"]
)
def test_one_undamped_step_solves_a_quadratic(eigenvalues: list[float]) -> None:
    A, b = symmetric_with(eigenvalues), randn(4, seed=1)
    x = nn.Parameter(randn(4, seed=2))
    problem = Problem([x], lambda p: p[0], lambda z: z @ A @ z / 2 - b @ z)
    _, step = step_of(problem, damping=0.0, cg_tol=1e-13)
    assert_close(x, torch.linalg.solve(A, b))
    assert step.accepted
    assert step.stop is Stop.CONVERGED
    assert step.negative_curvature is (min(eigenvalues) < 0)
    assert step.path is (Path.INDEFINITE if min(eigenvalues) < 0 else Path.PLAIN)


@pytest.mark.parametrize("lr", [1.0, 0.3])
@pytest.mark.parametrize("where", ["definite", "indefinite"])
def test_fixed_damping_takes_lr_times_the_dense_solution(where: str, lr: float) -> None:
    problem = regression(2, 5, 1)
    H, g = problem.hessian(), dense_gradient(problem)
    eigenvalues = torch.linalg.eigvalsh(H)
    assert eigenvalues[0] < -0.01
    if where == "definite":
        damping = 0.5 - float(eigenvalues[0])
    else:  # midway between the negative eigenvalues that lie farthest apart
        negative = eigenvalues[eigenvalues < 0]
        gap = int((negative[1:] - negative[:-1]).argmax())
        damping = -float(negative[gap] + negative[gap + 1]) / 2
    expected = -lr * torch.linalg.solve(H + damping * torch.eye(len(H)), g)
    move, step = step_of(problem, damping=damping, lr=lr, cg_tol=1e-12)
    assert_close(move, expected, 1e-8)
    assert step.damping == damping
    assert step.accepted
    assert step.negative_curvature is (where == "indefinite")
    assert step.step_length == pytest.approx(float(expected.norm()), rel=1e-8)


def test_gauss_newton_step_takes_the_dense_solution() -> None:
    problem = regression(2, 5, 2)
    G, g = problem.gauss_newton(), dense_gradient(problem)
    expected = -torch.linalg.solve(G + 0.1 * torch.eye(len(G)), g)
    move, step = step_of(problem, damping=0.1, curvature="gauss_newton", cg_tol=1e-12)
    assert_close(move, expected, 1e-8)
    assert not step.negative_curvature


def test_gauss_newton_of_cross_entropy_takes_the_dense_solution() -> None:
    labels = torch.tensor([0, 2, 1, 1, 0])
    problem = problem_of(
        mlp(2, 4, 3), randn(5, 2, seed=1), lambda z: functional.cross_entropy(z, labels)
    )
    G, g = problem.gauss_newton(), dense_gradient(problem)
    expected = -torch.linalg.solve(G + 0.1 * torch.eye(len(G)), g)
    move, _ = step_of(problem, damping=0.1, curvature="gauss_newton", cg_tol=1e-12)
    assert_close(move, expected, 1e-8)


def test_gauss_newton_refuses_a_loss_that_it_does_not_recognise() -> None:
    problem = Problem([nn.Parameter(randn(3))], lambda p: p[0], lambda z: z.exp().sum())
    with pytest.raises(ClosureError, match="ExpBackward0"):
        step_of(problem, curvature="gauss_newton")


def test_loss_linear_in_the_parameters() -> None:
    c = torch.tensor([1.0, -2.0])
    problem = Problem([nn.Parameter(torch.zeros(2))], lambda p: p[0], lambda z: c @ z)
    move, _ = step_of(problem, damping=0.5)
    assert_close(move, -c / 0.5)
    problem = Problem([nn.Parameter(torch.zeros(2))], lambda p: p[0], lambda z: c @ z)
    move, step = step_of(problem)
    assert step.accepted
    assert_close(move, -c / step.damping)
    assert step.scale == 1.0


def test_truncated_solve_takes_as_many_products_as_allowed() -> None:
    for cap in (1, 3):
        _, step = step_of(regression(2, 5, 1), damping=20.0, cg_max_iter=cap, cg_tol=0.0)
        assert step.cg_iterations == cap
        assert step.stop is Stop.MAX_ITERATIONS
    move, _ = step_of(problem := regression(2, 5, 1), damping=20.0, cg_max_iter=1)
    g = dense_gradient(problem := regression(2, 5, 1))
    Hg = problem.hessian() @ g
    assert_close(move, -g * (g @ g) / (g @ Hg + 20 * (g @ g)))


# What a preconditioner may and may not change.


def diagonal_preconditioner(seen: list[float]) -> Any:
    def prepare(loss: Tensor, params: Sequence[Tensor]) -> Callable[[float], LinearOperator]:
        size = sum(p.numel() for p in params)
        assert loss.requires_grad

        def at(damping: float) -> LinearOperator:
            seen.append(damping)
            return from_dense(torch.diag(1 / (damping + torch.linspace(0.1, 2, size))))

        return at

    return prepare


def test_callable_preconditioner_gives_the_same_fixed_solution() -> None:
    seen: list[float] = []
    plain, _ = step_of(regression(2, 5, 1), damping=2.0, cg_tol=1e-12)
    move, step = step_of(
        regression(2, 5, 1),
        damping=2.0,
        cg_tol=1e-12,
        preconditioner=diagonal_preconditioner(seen),
    )
    assert_close(move, plain, 1e-8)
    assert seen == [2.0]
    assert step.path is Path.USER


def test_exact_preconditioner_needs_one_iteration() -> None:
    problem = regression(2, 5, 1)
    H = problem.hessian()

    def prepare(loss: Tensor, params: Sequence[Tensor]) -> Callable[[float], LinearOperator]:
        return lambda damping: from_dense(torch.linalg.inv(H + damping * torch.eye(len(H))))

    _, step = step_of(problem, damping=2.0, preconditioner=prepare)
    assert step.cg_iterations == 1


def test_preconditioner_is_prepared_once_and_asked_for_each_damping() -> None:
    prepared, seen = [], []
    inner = diagonal_preconditioner(seen)

    def prepare(loss: Tensor, params: Sequence[Tensor]) -> Any:
        prepared.append(1)
        return inner(loss, params)

    x = nn.Parameter(torch.tensor([3.0]))
    optimizer = newton([x], damping=Adaptive(start=1e-6), preconditioner=prepare)
    optimizer.step(lambda: torch.sqrt(1 + x.square()).sum())
    assert optimizer.last_step.attempts == len(seen) > 1
    assert len(prepared) == 1


def test_preconditioner_that_offers_nothing_is_none() -> None:
    move, step = step_of(regression(2, 5, 1), damping=2.0, preconditioner=lambda loss, params: None)
    plain, _ = step_of(regression(2, 5, 1), damping=2.0)
    assert torch.equal(move, plain)
    assert step.path is Path.PLAIN


# What a step reports.


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_last_step_agrees_with_a_recomputation(curvature: str, lr: float) -> None:
    problem = regression(2, 6, 1)
    # "exact" leaves out the tests of the products, which are two more evaluations now and then.
    optimizer = newton(problem.params, curvature=curvature, lr=lr, hvp="exact")
    closure = Counting(closure_of(optimizer, problem.value))
    for iteration in range(1, 8):
        before, calls = values(problem.params), closure.calls
        A = problem.hessian() if curvature == "hessian" else problem.gauss_newton()
        g, loss = dense_gradient(problem), problem.value().item()
        returned = optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        d = values(problem.params) - before
        assert returned.item() == step.loss == loss
        assert step.accepted
        assert step.iteration == iteration
        assert step.loss_after == problem.value().item()
        assert step.gradient_norm == pytest.approx(float(g.norm()), rel=1e-12)
        assert step.step_length == pytest.approx(float(d.norm()), rel=1e-10)
        assert step.closure_calls == closure.calls - calls
        # The first step evaluates its starting point twice, to see whether the loss repeats.
        assert step.closure_calls == 1 + step.attempts + (iteration == 1)
        assert step.products == step.cg_iterations + (iteration == 1)
        predicted = -float(g @ d + d @ A @ d / 2)
        q = 10 * torch.finfo(torch.float64).eps * loss
        ratio = (loss - step.loss_after + q) / (predicted + q)
        assert step.ratio == pytest.approx(ratio, rel=1e-6)
        eigenvalues = torch.linalg.eigvalsh(A)
        assert eigenvalues[0] - 1e-10 <= step.curvature_min <= eigenvalues[-1] + 1e-10
        if iteration == 1:
            assert step.scale == pytest.approx(float((A @ g).norm() / g.norm()), rel=1e-10)
            assert step.damping >= 1e-2 * step.scale / 6**0.25 * (1 - 1e-12)
        assert step.width == 6


def test_adaptive_damping_follows_its_rule_from_step_to_step_of_an_arm() -> None:
    problem = regression(2, 6, 1)
    rule = Adaptive()
    optimizer = RegNewton(problem.params, damping=rule)
    last: dict[CandidateSystem, Step] = {}
    followed = 0
    for _ in range(40):
        optimizer.step(closure_of(optimizer, problem.value))
        step = optimizer.last_step
        assert step is not None
        if step.system in last and step.attempts == 1:
            scale = DampingContext(step.scale, step.width, torch.finfo(torch.float64).eps)
            assert step.damping == rule(last[step.system], scale)
            followed += 1
        last[step.system] = step
    assert followed >= 10
    assert len(last) >= 2


def test_negative_curvature_seen_is_negative_curvature_there() -> None:
    x = nn.Parameter(torch.tensor([0.1, 1.0]))
    problem = Problem([x], lambda p: p[0], lambda z: z[0] ** 4 - z[0] ** 2 + z[1] ** 2)
    seen = 0
    optimizer = newton([x], damping=Adaptive(start=0.1))
    for _ in range(8):
        H = problem.hessian()
        optimizer.step(closure_of(optimizer, problem.value))
        step = optimizer.last_step
        if step.negative_curvature:
            seen += 1
            assert float(torch.linalg.eigvalsh(H)[0]) <= step.curvature_min + 1e-12
            assert step.curvature_min < 0
    assert seen
    assert_close(x.abs(), torch.tensor([math.sqrt(0.5), 0.0]), 1e-2)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("seed", range(3))
def test_full_batch_loss_never_rises(seed: int, curvature: str) -> None:
    problem = regression(2, 8, 8, 1, rows=30, seed=seed)
    optimizer = newton(problem.params, curvature=curvature)
    closure = closure_of(optimizer, problem.value)
    losses = [optimizer.step(closure).item() for _ in range(40)]
    for before, after in itertools.pairwise(losses):
        assert after <= before * (1 + 1e-14)
    assert losses[-1] < 0.3 * losses[0]


def test_step_returns_what_the_closure_returned_first() -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = newton([x])
    results: list[dict[str, Any]] = []

    def closure() -> dict[str, Any]:
        loss = x.square().sum()
        loss.backward()
        results.append({"loss": loss.detach(), "call": len(results)})
        return results[-1]

    assert optimizer.step(closure) is results[0]
    assert len(results) >= 2

    def nothing() -> None:
        x.square().sum().backward()

    before = x.detach().square().sum()
    returned = optimizer.step(nothing)
    assert float(returned) == float(before)
    assert not returned.requires_grad


def test_closures_that_only_return_the_loss_do_the_same() -> None:
    results = []
    for kind in ("usual", "returns"):
        problem = regression(2, 4, 1)
        optimizer = newton(problem.params)
        usual = closure_of(optimizer, problem.value)
        for _ in range(3):
            optimizer.step(usual if kind == "usual" else problem.value)
        results.append(values([*problem.params, *(p.grad for p in problem.params)]))
    assert torch.equal(*results)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_closure_that_zeroes_gradients_and_only_returns_the_loss(set_to_none: bool) -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = newton([x])

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=set_to_none)
        return x.square().sum()

    optimizer.step(closure)
    optimizer.step(closure)
    assert optimizer.last_step.iteration == 2


# Gradients.


def test_gradients_are_left_as_one_backward_would_leave_them() -> None:
    problem = regression(2, 4, 1)
    expected = dense_gradient(problem)
    optimizer = newton(problem.params)
    optimizer.step(closure_of(optimizer, problem.value))
    assert optimizer.last_step.accepted
    grads = [p.grad for p in problem.params]
    assert torch.equal(flatten(grads), expected)
    assert not any(grad.requires_grad for grad in grads)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_parameter_that_the_loss_does_not_use_keeps_no_gradient(curvature: str) -> None:
    x, spare = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = newton([spare, x], curvature=curvature)
    optimizer.step(closure_of(optimizer, lambda: x.square().sum()))
    assert spare.grad is None
    assert same_bits(spare, torch.ones(3))
    assert x.grad.tolist() == [2.0, 2.0]
    assert x.detach().norm() < 1.5 * 0.9


def test_frozen_parameter_is_left_alone_and_may_thaw() -> None:
    x, y = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = newton([x, y], damping=0.0)
    closure = closure_of(optimizer, lambda: (x * 2 + y).square().sum() + y.square().sum())
    y.requires_grad_(False)
    optimizer.step(closure)
    assert y.grad is None
    assert y.tolist() == [1.0, 1.0]
    assert_close(x, torch.tensor([-0.5, -0.5]))
    y.requires_grad_(True)
    optimizer.step(closure)
    assert_close(values([x, y]), torch.zeros(4))


def test_closure_without_zero_grad_accumulates_as_with_sgd() -> None:
    problem = regression(2, 4, 1)

    def closure() -> Tensor:
        loss = problem.value()
        loss.backward()
        return loss

    optimizer = newton(problem.params, damping=5.0, cg_tol=1e-12)
    first = dense_gradient(problem)
    optimizer.step(closure)
    assert_close(flatten([p.grad for p in problem.params]), first, 1e-14)
    before = values(problem.params)
    second, H = dense_gradient(problem), problem.hessian()
    optimizer.step(closure)
    assert_close(flatten([p.grad for p in problem.params]), first + second, 1e-14)
    expected = -torch.linalg.solve(H + 5 * torch.eye(len(H)), first + second)
    assert_close(values(problem.params) - before, expected, 1e-8)


def test_several_backward_calls_step_on_their_sum() -> None:
    problem = regression(2, 4, 1)
    penalty = lambda: sum(p.square().sum() for p in problem.params)  # noqa: E731
    H = problem.hessian()
    g = dense_gradient(problem) + 2 * values(problem.params)
    expected = -torch.linalg.solve(H + 7 * torch.eye(len(H)), g)
    optimizer = newton(problem.params, damping=5.0, cg_tol=1e-12)
    before = values(problem.params)

    def closure() -> None:
        optimizer.zero_grad()
        problem.value().backward()
        penalty().backward()

    optimizer.step(closure)
    assert_close(values(problem.params) - before, expected, 1e-8)


def test_gradient_that_the_closure_clips_is_the_one_that_is_used() -> None:
    problem = regression(2, 4, 1)
    H, g = problem.hessian(), dense_gradient(problem)
    optimizer = newton(problem.params, damping=5.0, cg_tol=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.value()
        loss.backward()
        nn.utils.clip_grad_norm_(problem.params, 0.1)
        return loss

    before = values(problem.params)
    optimizer.step(closure)
    clipped = g * 0.1 / (g.norm() + 1e-6)
    assert_close(flatten([p.grad for p in problem.params]), clipped, 1e-12)
    expected = -torch.linalg.solve(H + 5 * torch.eye(len(H)), clipped)
    assert_close(values(problem.params) - before, expected, 1e-8)


# Refused and interrupted steps.


def hard_problem() -> tuple[Problem, dict[str, Any]]:
    """A start from which the first steps are refused, and options that show it."""
    x = nn.Parameter(torch.tensor([3.0, -0.0, 1e-300]))
    problem = Problem(
        [x], lambda p: p[0], lambda z: torch.sqrt(1 + z[:1].square()).sum() + z[1:].square().sum()
    )
    # Without tests of the products every evaluation from the third on is a trial.
    return problem, {"damping": Adaptive(start=1e-3), "hvp": "exact"}


def calls_of_an_undisturbed_step() -> int:
    problem, options = hard_problem()
    _, step = step_of(problem, **options)
    assert 3 <= step.attempts <= 6
    return step.closure_calls


def raising(error: type[BaseException]) -> Callable[[], Any]:
    def instead() -> Any:
        raise error("stopped")

    return instead


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_interrupted_step_restores_parameters_and_random_state(error: type[BaseException]) -> None:
    for at in range(1, calls_of_an_undisturbed_step() + 1):
        problem, options = hard_problem()
        optimizer = newton(problem.params, **options)
        inner = closure_of(optimizer, problem.value)

        def noisy(inner: Callable[[], Tensor] = inner) -> Tensor:
            torch.rand(3)
            return inner()

        def stop(error: type[BaseException] = error) -> Any:
            torch.rand(5)
            raise error("stopped")

        closure = Counting(noisy, at, stop)
        before = [p.detach().clone() for p in problem.params]
        random = torch.get_rng_state()
        with pytest.raises(error, match="stopped"):
            optimizer.step(closure)
        assert closure.calls == at
        assert all(same_bits(a, b) for a, b in zip(before, problem.params, strict=True))
        assert torch.equal(torch.get_rng_state(), random)
        assert optimizer.last_step is None
        # Whatever happened, the next step is that of a fresh optimizer.
        optimizer.step(closure_of(optimizer, problem.value))
        other, options = hard_problem()
        _, step = step_of(other, **options)
        assert optimizer.last_step == step
        assert all(same_bits(a, b) for a, b in zip(other.params, problem.params, strict=True))


def test_parameters_are_put_back_also_where_the_closure_itself_had_moved_them() -> None:
    x = nn.Parameter(torch.tensor([1.0, -0.0]))

    def closure() -> Tensor:
        x.data.add_(1.0)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        newton([x]).step(closure)
    assert same_bits(x, torch.tensor([1.0, -0.0]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_at_a_trial_is_a_failed_attempt(value: float) -> None:
    for at in range(3, calls_of_an_undisturbed_step() + 1):
        problem, options = hard_problem()
        optimizer = newton(problem.params, **options)

        def broken(problem: Problem = problem) -> Tensor:
            return problem.value() * value

        start = problem.value().item()
        closure = Counting(closure_of(optimizer, problem.value), at, broken)
        optimizer.step(closure)
        step = optimizer.last_step
        assert step.accepted
        assert step.attempts >= at - 1
        assert problem.value().item() == step.loss_after < start


def test_loss_that_is_not_finite_at_the_start_raises_and_moves_nothing() -> None:
    problem, options = hard_problem()
    optimizer = newton(problem.params, **options)
    before = problem.params[0].detach().clone()
    with pytest.raises(NonFiniteLossError):
        optimizer.step(lambda: problem.value() * math.nan)
    assert same_bits(problem.params[0], before)


@pytest.mark.parametrize("damping", ["auto", 0.5])
def test_step_that_is_always_refused_restores_every_bit(damping: str | float) -> None:
    x = nn.Parameter(torch.tensor([1.0, -0.0, 1e-310, 2 / 3]))
    optimizer = newton([x], damping=damping)
    start = x.detach().clone()

    def loss() -> Tensor:
        value = (x - 1).square().sum()
        return value if torch.equal(x.detach(), start) else value * math.nan

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            optimizer.step(closure_of(optimizer, loss))
            step = optimizer.last_step
            assert not step.accepted
            assert same_bits(x, start)
            assert step.step_length == 0.0
            assert step.loss_after == step.loss
            assert_close(x.grad, 2 * (start - 1))
    messages = [str(w.message) for w in caught if "refused" in str(w.message)]
    if damping == "auto":
        assert step.attempts == 8
        assert messages == []
    else:
        assert step.attempts == 1
        assert len(messages) == 1


def test_refused_attempts_raise_lambda_and_the_next_step_goes_on_from_there() -> None:
    x = nn.Parameter(torch.tensor([1.0]))
    optimizer = newton([x], damping=Adaptive(start=1e-9, attempts=2))
    bad = True

    def loss() -> Tensor:
        moved = float(x.detach()) != 1.0
        return (x * x).sum() * (math.nan if bad and moved else 1.0)

    optimizer.step(closure_of(optimizer, loss))
    first = optimizer.last_step
    assert not first.accepted
    assert first.damping == pytest.approx(2e-9 * 2 * 4, abs=0.0)
    bad = False
    optimizer.step(closure_of(optimizer, loss))
    assert optimizer.last_step.accepted
    assert optimizer.last_step.damping == first.damping


def test_products_that_are_not_finite_are_reported_and_nothing_moves() -> None:
    x = nn.Parameter(torch.tensor([0.0, 1.0]))
    # |x|^(3/2) has a slope of zero, and no second derivative, at zero.
    problem = Problem([x], lambda p: p[0], lambda z: z[0].abs() ** 1.5 + z[0] + z[1] ** 2)
    assert dense_gradient(problem).tolist() == [1.0, 2.0]
    move, step = step_of(problem, hvp="exact")
    assert step.stop is Stop.NON_FINITE
    assert not step.accepted
    assert step.scale == 1.0
    assert not move.any()


def test_gradient_that_is_not_finite_is_not_called_stationary() -> None:
    x = nn.Parameter(torch.zeros(2))
    optimizer = newton([x])
    try:
        optimizer.step(
            closure_of(optimizer, lambda: x.square().sum().sqrt() + (x * 0).sqrt().sum())
        )
    except RuntimeError:
        return
    assert optimizer.last_step.stop is Stop.NON_FINITE


def test_undamped_step_with_a_linear_direction_and_a_saddle_stays_finite() -> None:
    x = nn.Parameter(torch.ones(3))
    problem = Problem([x], lambda p: p[0], lambda z: 3 * z[0] - z[1] ** 2 / 2 + z[2] ** 2)
    move, _ = step_of(problem, damping=0.0)
    assert float(move.norm()) < 100


# Random state.


def test_random_state_after_a_step_is_that_after_one_closure() -> None:
    problem, options = hard_problem()
    optimizer = newton(problem.params, **options)
    draws: list[Tensor] = []

    def closure() -> Tensor:
        draws.append(torch.rand(4))
        return problem.value()

    torch.manual_seed(5)
    torch.rand(4)
    expected = torch.get_rng_state()
    torch.manual_seed(5)
    optimizer.step(closure)
    assert len(draws) == optimizer.last_step.closure_calls > 3
    assert all(torch.equal(draw, draws[0]) for draw in draws)
    assert torch.equal(torch.get_rng_state(), expected)
    optimizer.step(closure)
    assert not torch.equal(draws[-1], draws[0])


def test_random_state_is_that_of_the_first_run_whatever_later_runs_draw() -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = newton([x])
    calls: list[int] = []

    def closure() -> Tensor:
        calls.append(1)
        torch.rand(4 * len(calls))
        return x.square().sum()

    torch.manual_seed(5)
    torch.rand(4)
    expected = torch.get_rng_state()
    torch.manual_seed(5)
    optimizer.step(closure)
    assert len(calls) > 1
    assert torch.equal(torch.get_rng_state(), expected)


def test_all_trials_of_a_step_see_the_same_dropout_mask() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Dropout(0.5), nn.Linear(40, 1))
    x, y = randn(10, 3, seed=1), randn(10, 1, seed=2)
    optimizer = newton(model.parameters(), damping=10.0, lr=1e-4)
    losses = []
    for _ in range(5):
        losses.append(
            optimizer.step(closure_of(optimizer, lambda: functional.mse_loss(model(x), y))).item()
        )
        step = optimizer.last_step
        assert step.loss_after < step.loss
        assert step.ratio == pytest.approx(1.0, abs=1e-3)
    assert max(losses) - min(losses) > 0.01  # another mask at every step


# Groups, learning rates, schedulers.


def test_groups_scale_their_part_of_the_step() -> None:
    problem = regression(2, 5, 1)
    H, g = problem.hessian(), dense_gradient(problem)
    lrs = [0.5, 0.5, 2.0, 0.0]
    rates = flatten([torch.full_like(p, lr) for p, lr in zip(problem.params, lrs, strict=True)])
    d = -rates * torch.linalg.solve(H + 6 * torch.eye(len(H)), g)
    loss, before = problem.value().item(), values(problem.params)
    optimizer = newton(
        [
            {"params": problem.params[:2], "lr": 0.5},
            {"params": problem.params[2:3], "lr": 2.0},
            {"params": problem.params[3:], "lr": 0.0},
        ],
        damping=6.0,
        cg_tol=1e-12,
    )
    optimizer.step(closure_of(optimizer, problem.value))
    assert_close(values(problem.params) - before, d, 1e-8)
    step = optimizer.last_step
    predicted = -float(g @ d + d @ H @ d / 2)
    assert step.ratio == pytest.approx((loss - problem.value().item()) / predicted, rel=1e-6)
    assert step.step_length == pytest.approx(float(d.norm()), rel=1e-8)


def test_group_without_lr_has_the_default_and_groups_of_one_lr_are_as_one_group() -> None:
    moves = []
    for split in (False, True):
        problem = regression(2, 5, 1)
        groups = [{"params": problem.params[:1]}, {"params": problem.params[1:], "lr": 0.7}]
        optimizer = newton(groups if split else problem.params, lr=0.7)
        assert [group["lr"] for group in optimizer.param_groups] == [0.7] * (1 + split)
        for _ in range(3):
            optimizer.step(closure_of(optimizer, problem.value))
        moves.append(values(problem.params))
    assert torch.equal(*moves)


def test_group_added_later_is_trained_and_the_damping_goes_on() -> None:
    problem = regression(2, 5, 1)
    optimizer = newton(problem.params[:2])
    closure = closure_of(optimizer, problem.value)
    optimizer.step(closure)
    optimizer.add_param_group({"params": problem.params[2:], "lr": 0.5})
    before = values(problem.params[2:])
    optimizer.step(closure)
    assert optimizer.last_step.iteration == 2
    assert not torch.equal(values(problem.params[2:]), before)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_lr_multiplies_the_step_and_is_read_at_each_step(as_tensor: bool) -> None:
    moves = []
    for lr in (1.0, 0.25):
        problem = regression(2, 5, 1)
        optimizer = newton(
            problem.params, lr=torch.tensor(9.0) if as_tensor else 9.0, damping=6.0, cg_tol=1e-12
        )
        optimizer.param_groups[0]["lr"] = torch.tensor(lr) if as_tensor else lr
        before = values(problem.params)
        optimizer.step(closure_of(optimizer, problem.value))
        moves.append(values(problem.params) - before)
    assert_close(moves[1], 0.25 * moves[0], 1e-12)


Scheduler = Callable[[torch.optim.Optimizer], Any]


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (
            lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
            [1.0, 0.5, 0.25, 0.125],
        ),
        (
            lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3),
            [1.0, 0.75, 0.25, 0.0],
        ),
        (
            lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=0.1, patience=0, threshold=10.0, threshold_mode="abs"
            ),
            [1.0, 1.0, 0.1, 0.01],
        ),
    ],
    ids=["StepLR", "CosineAnnealingLR", "ReduceLROnPlateau"],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_schedulers_set_the_length_of_the_step(
    scheduler: Scheduler, expected: list[float], as_tensor: bool
) -> None:
    # The undamped step from x to 0 is -x, whatever x.
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = newton([x], damping=0.0, lr=torch.tensor(1.0) if as_tensor else 1.0)
    schedule = scheduler(optimizer)
    for lr in expected:
        x.data.copy_(torch.tensor([1.0, 2.0]))
        loss = optimizer.step(closure_of(optimizer, lambda: x.square().sum()))
        assert_close(x, (1 - lr) * torch.tensor([1.0, 2.0]), 1e-6)
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            schedule.step(loss.item())
        else:
            schedule.step()


# Arguments.


def parameter(*, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    return torch.ones(2, dtype=dtype, device=device).requires_grad_()


def test_parameters_of_unsuitable_types_are_refused() -> None:
    with pytest.raises(TypeError, match="real dense floating-point"):
        RegNewton([parameter(dtype=torch.complex128)])
    with pytest.raises(TypeError, match="real dense floating-point"):
        RegNewton([torch.ones(2, dtype=torch.int64)])
    with pytest.raises(TypeError, match="real dense floating-point"):
        RegNewton([torch.eye(2).to_sparse().requires_grad_()])
    with pytest.raises(ValueError, match=r"one dtype.*float32.*float64"):
        RegNewton([parameter(), parameter(dtype=torch.float32)])
    with pytest.raises(ValueError, match=r"one device.*cpu.*meta"):
        RegNewton([parameter(), parameter(device="meta")])
    with pytest.raises(ValueError, match="empty"):
        RegNewton([])
    with pytest.raises(TypeError):
        RegNewton(parameter())


def test_group_that_is_refused_is_not_added() -> None:
    x = parameter()
    optimizer = newton([x])
    for group in (
        {"params": [parameter(dtype=torch.float32)]},
        {"params": [parameter()], "damping": 1.0},
        {"params": [parameter()], "lr": -1.0},
        {"params": [x]},
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - four messages, one of them PyTorch's
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 1
    optimizer.step(lambda: x.square().sum())
    assert optimizer.last_step.accepted


@pytest.mark.parametrize(
    "option",
    [
        {"damping": 1.0},
        {"curvature": "hessian"},
        {"preconditioner": None},
        {"cg_max_iter": 3},
        {"cg_tol": 0.1},
        {"width": 3},
    ],
    ids=lambda option: next(iter(option)),
)
def test_options_that_couple_all_parameters_cannot_differ_between_groups(
    option: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} cannot differ between"):
        RegNewton([{"params": [parameter()], **option}])


def test_option_of_another_optimizer_in_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="has no momentum"):
        RegNewton([{"params": [parameter()], "momentum": 0.1}])


def test_empty_first_group_as_pytorch_allows() -> None:
    x = parameter()
    optimizer = newton([{"params": []}, {"params": [x]}])
    optimizer.step(lambda: x.square().sum())


@pytest.mark.parametrize(
    "arguments",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"lr": torch.ones(2)},
        {"damping": -1.0},
        {"damping": "newton"},
        {"curvature": "fisher"},
        {"preconditioner": "diagonal"},
        {"preconditioner": 3},
        {"cg_max_iter": 0},
        {"cg_max_iter": 2.5},
        {"cg_tol": -0.1},
        {"cg_tol": 1.0},
        {"cg_tol": "small"},
        {"width": 0},
        {"width": 1.5},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RegNewton([parameter()], **arguments)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("PyTorch without torch.distributed")
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    x = parameter()
    with pytest.raises(RuntimeError, match="single process"):
        newton([x]).step(lambda: x.square().sum())
    assert x.tolist() == [1.0, 1.0]


# Stationary points and warnings.


def test_zero_gradient_is_stationary_and_a_later_batch_goes_on() -> None:
    x = nn.Parameter(torch.tensor([1.0]))
    target = torch.tensor([1.0])
    optimizer = newton([x])
    closure = closure_of(optimizer, lambda: (x - target).square().sum())
    optimizer.step(closure)
    step = optimizer.last_step
    assert step.stop is Stop.STATIONARY
    assert not step.accepted
    assert (step.closure_calls, step.products, step.attempts) == (2, 0, 0)
    assert x.item() == 1.0
    assert x.grad.item() == 0.0
    target.fill_(3.0)
    optimizer.step(closure)
    assert optimizer.last_step.accepted
    assert optimizer.last_step.scale == 2.0
    assert optimizer.last_step.damping == 0.02
    x.data.fill_(3.0)
    optimizer.step(closure)
    assert optimizer.last_step.stop is Stop.STATIONARY
    assert optimizer.last_step.damping == 0.02
    target.fill_(0.0)
    optimizer.step(closure)
    assert optimizer.last_step.accepted
    assert optimizer.last_step.iteration == 4


def test_width_damping_warns_once_at_negative_curvature() -> None:
    x = nn.Parameter(torch.tensor([0.1, 0.2]))
    rule = WidthScaled(gamma=0.01, beta=0.5)
    optimizer = newton([x], damping=rule, lr=1e-3)
    closure = closure_of(optimizer, lambda: x.pow(4).sum() - x.square().sum())
    with pytest.warns(UserWarning, match="raise gamma or the width"):
        optimizer.step(closure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(closure)
    assert optimizer.last_step.negative_curvature


@pytest.mark.parametrize("damping", ["width", 0.01, "auto"])
def test_no_warning_where_there_is_nothing_to_say(damping: str | float) -> None:
    x = nn.Parameter(torch.tensor([0.1, 0.2]))
    optimizer = newton([x], damping=damping)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(closure_of(optimizer, lambda: x.square().sum()))
    assert optimizer.last_step.damping == {"width": 0.1, 0.01: 0.01, "auto": 0.02}[damping]


# Checkpoints.


def via_state_dict(optimizer: RegNewton, fresh: RegNewton) -> RegNewton:
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return fresh


def via_file(optimizer: RegNewton, fresh: RegNewton) -> RegNewton:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    return fresh


@pytest.mark.parametrize("way", [via_state_dict, via_file])
@pytest.mark.parametrize(
    "options",
    [{}, {"curvature": "gauss_newton"}, {"damping": "width"}, {"damping": 3.0, "lr": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("after", [0, 1, 5])
def test_run_continued_from_a_checkpoint_is_bit_identical(
    after: int, options: dict[str, Any], way: Callable[[RegNewton, RegNewton], RegNewton]
) -> None:
    problem, copied = regression(2, 6, 1), regression(2, 6, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = newton(problem.params, **options)
        for _ in range(after):
            optimizer.step(closure_of(optimizer, problem.value))
        for new, old in zip(copied.params, problem.params, strict=True):
            new.data.copy_(old.data)
        continued = way(optimizer, newton(copied.params, **options))
        assert continued.last_step == optimizer.last_step
        for _ in range(5):
            optimizer.step(closure_of(optimizer, problem.value))
            continued.step(closure_of(continued, copied.value))
            assert continued.last_step == optimizer.last_step
    assert same_bits(values(copied.params), values(problem.params))


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
    ids=["copy", "pickle"],
)
def test_copied_optimizer_goes_on_bit_identically(duplicate: Callable[[Any], Any]) -> None:
    model, x, y = mlp(2, 6, 1), randn(9, 2, seed=1), randn(9, 1, seed=2)

    def train(model: nn.Module, optimizer: RegNewton, steps: int) -> None:
        for _ in range(steps):
            optimizer.step(closure_of(optimizer, lambda: functional.mse_loss(model(x), y)))

    optimizer = newton(model.parameters(), damping=Adaptive(start=0.5), cg_max_iter=7)
    train(model, optimizer, 3)
    other_model, other = duplicate((model, optimizer))
    assert other.last_step == optimizer.last_step
    assert other.param_groups[0]["params"][0] is next(other_model.parameters())
    train(model, optimizer, 4)
    train(other_model, other, 4)
    assert other.last_step == optimizer.last_step
    assert same_bits(values(list(model.parameters())), values(list(other_model.parameters())))


def test_state_holds_numbers_and_tensors_alone() -> None:
    problem = regression(2, 4, 1)
    optimizer = RegNewton(problem.params)
    for _ in range(6):
        optimizer.step(closure_of(optimizer, problem.value))
    assert "scaling_rows" in optimizer.state_dict()["state"][0]

    def check(value: object) -> None:
        if isinstance(value, dict):
            for part in value.values():
                check(part)
        else:
            assert isinstance(value, (int, float, Tensor))

    check(optimizer.state_dict()["state"])


def test_same_start_gives_the_same_run() -> None:
    ends = []
    for _ in range(2):
        problem = regression(2, 6, 1)
        optimizer = newton(problem.params)
        for _ in range(6):
            optimizer.step(closure_of(optimizer, problem.value))
        ends.append(values(problem.params))
    assert same_bits(*ends)


def test_last_step_is_none_before_the_first() -> None:
    assert newton([parameter()]).last_step is None


def test_graph_over_the_old_parameters_is_invalid_after_a_step() -> None:
    x = nn.Parameter(torch.ones(2))
    old = x.pow(3).sum()
    optimizer = newton([x])
    optimizer.step(closure_of(optimizer, lambda: x.square().sum()))
    with pytest.raises(RuntimeError, match="inplace"):
        old.backward()


def test_single_precision_trains_and_never_diverges() -> None:
    model = mlp(1, 16, 1).float()
    x = torch.linspace(-1, 1, 20, dtype=torch.float32)[:, None]
    y = torch.sin(3 * x)
    optimizer = newton(model.parameters())
    closure = closure_of(optimizer, lambda: functional.mse_loss(model(x), y))
    losses = []
    for _ in range(150):
        losses.append(optimizer.step(closure).item())
        step = optimizer.last_step
        assert step.damping <= 1e6 * step.scale * (1 + 1e-6)
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert losses[-1] < 1e-4
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(losses))


def test_unpacking_a_direction_uses_the_order_of_the_groups() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 3))
    optimizer = newton([{"params": [b]}, {"params": [a]}], damping=0.0)
    targets = unflatten(torch.arange(5.0), [a, b])
    optimizer.step(
        closure_of(
            optimizer,
            lambda: sum((p - t).square().sum() for p, t in zip((a, b), targets, strict=True)),
        )
    )
    assert_close(a, targets[0])
    assert_close(b, targets[1])


def test_identity_preconditioner_is_plain_conjugate_gradients() -> None:
    def prepare(loss: Tensor, params: Sequence[Tensor]) -> Callable[[float], LinearOperator]:
        return lambda damping: identity(sum(p.numel() for p in params))

    one, _ = step_of(regression(2, 5, 1), preconditioner=prepare)
    two, _ = step_of(regression(2, 5, 1))
    assert torch.equal(one, two)


def batch_norm_problem() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))
    return net, randn(16, 2, seed=1), randn(16, 1, seed=2)


def test_running_statistics_count_a_batch_once_a_step() -> None:
    net, x, y = batch_norm_problem()
    once = copy.deepcopy(net)
    once(x)
    optimizer = newton(net.parameters())
    optimizer.step(closure_of(optimizer, lambda: (net(x) - y).square().mean()))
    assert optimizer.last_step.accepted
    assert optimizer.last_step.closure_calls > 1
    for found, expected in zip(net.buffers(), once.buffers(), strict=True):
        assert torch.equal(found, expected)


def test_running_statistics_are_put_back_when_a_step_is_interrupted() -> None:
    net, x, y = batch_norm_problem()
    before = [buffer.clone() for buffer in net.buffers()]
    optimizer = newton(net.parameters())
    calls = 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        value = (net(x) - y).square().mean()
        if calls == 2:
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure_of(optimizer, loss))
    for found, expected in zip(net.buffers(), before, strict=True):
        assert torch.equal(found, expected)


def test_a_warm_up_from_a_learning_rate_of_zero_leaves_the_damping_alone() -> None:
    problem, _ = hard_problem()
    optimizer = newton(problem.params, lr=0.0)
    closure = closure_of(optimizer, problem.value)
    for _ in range(3):
        optimizer.step(closure)
        assert optimizer.last_step.accepted
        assert optimizer.last_step.attempts == 1
        assert optimizer.last_step.step_length == 0.0
    standing = optimizer.last_step
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step(closure)
    assert optimizer.last_step.loss == standing.loss
    assert optimizer.last_step.loss_after < standing.loss
