"""Whatever goes wrong inside a step, nothing of it is left."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
import torch.overrides
from torch import Tensor, nn
from torch.nn import functional

import torch_newton
from tests.helpers import randn, same_bits, tally
from torch_newton import Adaptive, NonFiniteLossError, RegNewton
from torch_newton.linalg.operators import LinearOperator

pytestmark = pytest.mark.usefixtures("float64")


class Problem:
    """A network with dropout and batch normalisation, and an optimizer that is under way."""

    def __init__(self, steps: int = 1, **options: Any) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the legacy generator is what is tested
        self.model = nn.Sequential(
            nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 1)
        )
        self.x, self.y = randn(12, 2, seed=1), randn(12, 1, seed=2)
        self.optimizer = RegNewton(self.model.parameters(), **options)
        self.calls = 0
        self.fault: Callable[[Tensor], Tensor] | None = None
        self.at = 0
        for _ in range(steps):
            self.step()
        self.calls = 0

    def closure(self) -> Tensor:
        self.optimizer.zero_grad()
        self.calls += 1
        noise = random.random() + np.random.random()  # noqa: NPY002
        loss = functional.mse_loss(self.model(self.x) * (1 + 1e-3 * noise), self.y)
        if self.calls == self.at and self.fault is not None:
            loss = self.fault(loss)
        loss.backward()
        return loss

    def step(self) -> Tensor:
        return self.optimizer.step(self.closure)

    def snapshot(self) -> list[Any]:
        """Everything that a step may change."""
        return copy.deepcopy(
            [
                list(self.model.state_dict().values()),
                [p.grad for p in self.model.parameters()],
                torch.get_rng_state(),
                random.getstate(),
                np.random.get_state(),  # noqa: NPY002
                self.optimizer.state_dict()["state"],
                self.optimizer.last_step,
                torch.overrides._len_torch_function_stack(),
                torch.is_grad_enabled(),
            ]
        )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return same_bits(a, b) if a.dtype is torch.float64 else torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)  # noqa: PLR0124 - NaN


def raising(error: type[BaseException]) -> Callable[[Tensor], Tensor]:
    def fault(loss: Tensor) -> Tensor:
        raise error("injected")

    return fault


ERRORS = [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError]
"""What ends a step at any point."""

ERRORS_AT_THE_START = [RuntimeError, ValueError]
"""What ends a step where it begins, and elsewhere counts as a loss that is not finite."""

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"preconditioner": None},
    "gauss-newton": {"curvature": "gauss_newton"},
    "fixed": {"damping": 0.5, "cg_max_iter": 10},
    "differences": {"hvp": "finite_difference", "preconditioner": None, "cg_max_iter": 3},
    "refused": {"damping": Adaptive(start=1e-9)},
}


def undisturbed_calls(options: dict[str, Any], steps: int) -> int:
    problem = Problem(steps, **options)
    problem.step()
    return problem.calls


@pytest.mark.parametrize("steps", [0, 1], ids=["first step", "second step"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_fault_in_any_evaluation_leaves_nothing(name: str, steps: int) -> None:
    options = OPTIONS[name]
    calls = undisturbed_calls(options, steps)
    assert calls >= 2
    tried = kept = 0
    problem = Problem(steps, **options)
    before = problem.snapshot()
    start = 1 if steps else 2  # the first step evaluates its starting point twice
    for at in range(1, calls + 1):
        for error in ERRORS + (ERRORS_AT_THE_START if at <= start else []):
            problem.calls, problem.at, problem.fault = 0, at, raising(error)
            with pytest.raises(error, match="injected"):
                problem.step()
            assert problem.calls == at
            tried += 1
            kept += same(problem.snapshot(), before)
    tally("faults injected with nothing lost", tried, kept)
    assert kept == tried
    problem.calls, problem.fault = 0, None
    problem.step()
    other = Problem(steps, **options)
    other.step()
    assert same(problem.snapshot(), other.snapshot())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [0, 1], ids=["first step", "second step"])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_error_at_a_trial_is_a_loss_that_is_not_finite(name: str, steps: int) -> None:
    options = OPTIONS[name]
    for at in range(2 if steps else 3, undisturbed_calls(options, steps) + 1):
        after = []
        for fault in (raising(ValueError), lambda loss: loss * float("nan")):
            problem = Problem(steps, **options)
            problem.at, problem.fault = at, fault
            problem.step()
            after.append(problem.snapshot())
            after[-1].pop(6)  # the last step is in the state, too, where one NaN is like another
        kept = same(*after)
        tally("faults injected with nothing lost", 1, kept)
        assert kept


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_first_loss_that_is_not_finite_leaves_nothing(value: float, steps: int) -> None:
    problem = Problem(steps)
    before = problem.snapshot()
    problem.at, problem.fault = 1, lambda loss: loss * value
    with pytest.raises(NonFiniteLossError):
        problem.step()
    kept = same(problem.snapshot(), before)
    tally("faults injected with nothing lost", 1, kept)
    assert kept


def test_a_gradient_that_is_not_finite_leaves_nothing() -> None:
    problem = Problem()
    before = problem.snapshot()
    weight = problem.model[0].weight

    def root_at_zero(loss: Tensor) -> Tensor:
        return loss + (0 * weight.sum()).sqrt()

    problem.at, problem.fault = 1, root_at_zero
    with pytest.raises(NonFiniteLossError, match="gradient is not finite"):
        problem.step()
    kept = same(problem.snapshot(), before)
    tally("faults injected with nothing lost", 1, kept)
    assert kept


@contextmanager
def failing_derivative(at: int, error: type[BaseException]) -> Iterator[list[int]]:
    """Make the `at`-th call of autograd.grad fail: gradients, products, rows of the Jacobian."""
    real, count = torch.autograd.grad, [0]

    def grad(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise error("injected")
        return real(*args, **kwargs)

    torch.autograd.grad = grad
    try:
        yield count
    finally:
        torch.autograd.grad = real


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_fault_in_any_product_leaves_nothing(name: str, error: type[BaseException]) -> None:
    with failing_derivative(0, error) as count:
        problem = Problem(1, **OPTIONS[name])
        count[0] = 0
        problem.step()
        number = count[0]
    assert number >= 2
    problem = Problem(1, **OPTIONS[name])
    before = problem.snapshot()
    kept = 0
    for at in range(1, number + 1):
        with failing_derivative(at, error), pytest.raises(error, match="injected"):
            problem.step()
        kept += same(problem.snapshot(), before)
    tally("faults injected with nothing lost", number, kept)
    assert kept == number


LIBRARY = str(Path(torch_newton.__file__).parent)


@contextmanager
def interrupted_at_line(at: int) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt when the `at`-th line of this package is about to run."""
    count = [0]

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(LIBRARY):
            return None
        if event == "line":
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def test_an_interrupt_at_any_line_leaves_nothing_or_the_whole_step() -> None:
    options = {"preconditioner": None, "cg_max_iter": 2}
    problem = Problem(1, **options)
    with interrupted_at_line(0) as count:
        problem.step()
    lines = count[0]
    after = problem.snapshot()
    problem = Problem(1, **options)
    before = problem.snapshot()
    kept = 0
    step = max(1, lines // 300)
    tried = range(1, lines + 1, step)
    for at in tried:
        with interrupted_at_line(at):
            try:
                problem.step()
            except KeyboardInterrupt:
                kept += same(problem.snapshot(), before)
            else:
                kept += same(problem.snapshot(), after)
                problem = Problem(1, **options)
    tally("faults injected with nothing lost", len(tried), kept)
    assert kept == len(tried)
    assert not torch.nn.modules.module._global_forward_pre_hooks


def failing_rule(last: object, scale: object) -> float:
    raise ArithmeticError("injected")


def failing_prepare(loss: Tensor, params: Sequence[Tensor]) -> Any:
    raise ArithmeticError("injected")


def failing_at(loss: Tensor, params: Sequence[Tensor]) -> Any:
    def at(damping: float) -> LinearOperator:
        raise ArithmeticError("injected")

    return at


def failing_product(loss: Tensor, params: Sequence[Tensor]) -> Any:
    def product(v: Tensor) -> Tensor:
        raise ArithmeticError("injected")

    size = sum(p.numel() for p in params)
    return lambda damping: LinearOperator((size, size), product, product, v_dtype, v_device)


v_dtype, v_device = torch.float64, torch.device("cpu")


class FailingRetry(Adaptive):
    def accepts(self, attempt: object) -> bool:
        raise ArithmeticError("injected")


@pytest.mark.parametrize(
    "options",
    [
        {"damping": failing_rule},
        {"damping": FailingRetry()},
        {"preconditioner": failing_prepare},
        {"preconditioner": failing_at},
        {"preconditioner": failing_product},
    ],
    ids=["rule", "accepts", "prepare", "at", "product"],
)
def test_a_fault_in_what_the_user_gave_leaves_nothing(options: dict[str, Any]) -> None:
    problem = Problem(0, **options)
    before = problem.snapshot()
    with pytest.raises(ArithmeticError, match="injected"):
        problem.step()
    kept = same(problem.snapshot(), before)
    tally("faults injected with nothing lost", 1, kept)
    assert kept


@pytest.mark.parametrize("where", ["forward_pre", "forward", "tensor", "step_pre"])
def test_a_fault_in_a_hook_leaves_nothing(where: str) -> None:
    problem = Problem(1)
    before = problem.snapshot()

    def fail(*args: Any) -> None:
        raise ArithmeticError("injected")

    register = {
        "forward_pre": problem.model[2].register_forward_pre_hook,
        "forward": problem.model[2].register_forward_hook,
        "tensor": problem.model[0].weight.register_hook,
        "step_pre": problem.optimizer.register_step_pre_hook,
    }[where]
    handle = register(fail)
    with pytest.raises(ArithmeticError, match="injected"):
        problem.step()
    handle.remove()
    kept = same(problem.snapshot(), before)
    tally("faults injected with nothing lost", 1, kept)
    assert kept


def test_a_step_after_which_a_hook_fails_is_whole() -> None:
    problem = Problem(1)

    def fail(*args: Any) -> None:
        raise ArithmeticError("injected")

    problem.optimizer.register_step_post_hook(fail)
    with pytest.raises(ArithmeticError, match="injected"):
        problem.step()
    after = problem.snapshot()
    other = Problem(1)
    other.step()
    assert same(after, other.snapshot())


def test_buffers_that_a_trial_depends_on_are_those_of_the_first_evaluation() -> None:
    """Power iteration moves a buffer at each forward pass; every trial must start from the same."""
    torch.manual_seed(0)
    layer = nn.utils.spectral_norm(nn.Linear(3, 3))
    x, y = randn(6, 3, seed=1), randn(6, 3, seed=2)
    optimizer = RegNewton(layer.parameters(), lr=1e-2, damping=10.0)
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        seen.append(layer.weight_u.clone())
        loss = functional.mse_loss(layer(x), y)
        loss.backward()
        return loss

    once = copy.deepcopy(layer)
    once(x)
    optimizer.step(closure)
    assert len(seen) > 2
    assert all(torch.equal(u, seen[0]) for u in seen)
    assert torch.equal(layer.weight_u, once.weight_u)


def test_an_accumulated_gradient_survives_a_failed_step() -> None:
    problem = Problem(0)
    functional.mse_loss(problem.model(problem.x), problem.y).backward()
    before = problem.snapshot()
    counts = dict(problem.optimizer._backward_calls.counts)
    problem.at, problem.fault = 2, raising(RuntimeError)
    with pytest.raises(RuntimeError, match="injected"):
        problem.step()
    assert same(problem.snapshot(), before)
    assert problem.optimizer._backward_calls.counts == counts
