"""A loss that is the same everywhere costs few evaluations a step, and gives one warning."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional

from tests.helpers import closure_of, mlp, randn
from torch_newton import RegNewton
from torch_newton.newton.trust_region import FLAT_ATTEMPTS

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scaling", ["auto", None])
def test_a_loss_over_its_own_detached_value(scaling: str | None, dtype: torch.dtype) -> None:
    model, x, y = mlp(2, 4, 1).to(dtype), randn(9, 2).to(dtype), randn(9, 1, seed=1).to(dtype)
    optimizer = RegNewton(model.parameters(), scaling=scaling)

    def loss() -> torch.Tensor:
        value = functional.mse_loss(model(x), y)
        return value / value.detach()

    closure = closure_of(optimizer, loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(10):
            optimizer.step(closure)
            step = optimizer.last_step
            assert step is not None
            assert step.attempts <= FLAT_ATTEMPTS
            if not step.system.exact:  # whose products take evaluations, and so does its test
                assert step.closure_calls <= 1 + (number == 0) + FLAT_ATTEMPTS
    assert sum("own detached value" in str(w.message) for w in caught) == 1


def test_a_loss_that_changes_little_is_minimised_to_its_last_digits() -> None:
    """A large constant hides the last reductions, and nothing is said of it."""
    model, x, y = mlp(2, 8, 1), randn(9, 2), randn(9, 1, seed=1)
    optimizer = RegNewton(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            optimizer.step(closure_of(optimizer, lambda: functional.mse_loss(model(x), y) + 1e6))
    assert float(functional.mse_loss(model(x), y).detach()) < 1e-9
