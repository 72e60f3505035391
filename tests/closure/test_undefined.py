"""A closure that raises away from the starting point says that its loss is not defined there."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from tests.helpers import randn, same_bits
from torch_newton import RegNewton
from torch_newton.closure.capture import ClosureWarning

pytestmark = pytest.mark.usefixtures("float64")


def normal(x: nn.Parameter) -> Tensor:
    """Of data with mean 2 and deviation 0.1; undefined for a negative scale."""
    data = 2 + 0.1 * randn(50, seed=1)
    return -Normal(x[0], x[1], validate_args=True).log_prob(data).mean()


def gaussian_process(x: nn.Parameter) -> Tensor:
    """Its covariance is indefinite for negative noise."""
    t = torch.linspace(0, 1, 12)
    y = torch.sin(6 * t) + 0.1 * randn(12, seed=1)
    K = torch.exp(-((t[:, None] - t) ** 2) / x[0] ** 2) + x[1] * torch.eye(12)
    L = torch.linalg.cholesky(K)
    alpha = torch.cholesky_solve(y[:, None], L)[:, 0]
    return y @ alpha / 2 + L.diagonal().log().sum()


@pytest.mark.parametrize(
    ("loss", "start", "raises"),
    [(normal, [0.0, 1.5], "ValueError"), (gaussian_process, [0.3, 0.02], "LinAlgError")],
)
def test_training_goes_on(
    loss: Callable[[nn.Parameter], Tensor], start: list[float], raises: str
) -> None:
    x = nn.Parameter(torch.tensor(start))
    optimizer = RegNewton([x])
    raised = 0

    def closure() -> Tensor:
        nonlocal raised
        optimizer.zero_grad()
        try:
            found = loss(x)
        except Exception:
            raised += 1
            raise
        found.backward()
        return found

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = [float(optimizer.step(closure).detach()) for _ in range(60)]
    assert raised > 0
    said = [str(w.message) for w in caught if w.category is ClosureWarning]
    assert len(said) == 1
    assert raises in said[0]
    assert all(b <= a + 1e-12 * abs(a) for a, b in itertools.pairwise(losses))
    gradient = torch.autograd.grad(loss(x), x)[0]
    assert float(gradient.norm()) < 1e-6


def failing(at: Callable[[Tensor], bool], error: BaseException) -> tuple[nn.Parameter, Any]:
    x = nn.Parameter(torch.tensor([3.0]))

    def closure() -> Tensor:
        if at(x):
            raise error
        return (x**2).sum()

    return x, closure


def test_under_a_fixed_damping_the_step_is_refused() -> None:
    x, closure = failing(lambda x: bool(x < 2), ValueError("too small"))
    optimizer = RegNewton([x], damping=0.1)
    with pytest.warns(ClosureWarning, match="too small"):
        optimizer.step(closure)
    assert same_bits(x, torch.tensor([3.0]))
    assert optimizer.last_step is not None
    assert not optimizer.last_step.accepted


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("damping", ["auto", 0.1])
def test_interrupts_and_lack_of_memory_end_the_step(
    damping: str | float, error: BaseException
) -> None:
    x, closure = failing(lambda x: bool(x < 2), error)
    optimizer = RegNewton([x], damping=damping, preconditioner=None)
    with pytest.raises(type(error)):
        optimizer.step(closure)
    assert same_bits(x, torch.tensor([3.0]))
    assert optimizer.last_step is None


def test_at_the_starting_point_it_is_an_error() -> None:
    x, closure = failing(lambda x: True, ValueError("never"))
    with pytest.raises(ValueError, match="never"):
        RegNewton([x]).step(closure)
    calls = iter(range(10))
    x, closure = failing(lambda x: next(calls) == 1, ValueError("at the second call"))
    with pytest.raises(ValueError, match="at the second call"):
        RegNewton([x]).step(closure)


def test_differences_of_gradients_are_not_finite_where_the_closure_raises() -> None:
    x, closure = failing(lambda x: bool(x > 3), ValueError("too large"))
    optimizer = RegNewton([x], hvp="finite_difference", preconditioner=None)
    with pytest.warns(ClosureWarning, match="too large"):
        optimizer.step(closure)
