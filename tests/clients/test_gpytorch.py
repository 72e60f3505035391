"""GPyTorch: a second derivative that is wrong, and errors away from where a step begins."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from torch_newton import RegNewton

gpytorch = pytest.importorskip("gpytorch")
cholesky = pytest.importorskip("linear_operator.utils.cholesky")
errors = pytest.importorskip("linear_operator.utils.errors")


def test_the_wrong_second_derivative_is_found_and_the_likelihood_maximised() -> None:
    from examples.clients import gpytorch_exact as client

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss, _ = client.train_newton(40)
    found = [str(w.message) for w in caught if "second derivative" in str(w.message)]
    assert len(found) == 1
    assert "RBFCovarianceBackward" in found[0]
    # Found by Adam at 0.1 in 5,000 steps, to all digits.
    assert loss == pytest.approx(0.21618385310905, abs=1e-12)


@pytest.mark.parametrize("broken", ["indefinite", "not a number"])
def test_what_it_raises_away_from_the_start_is_a_refused_trial(broken: str) -> None:
    x = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    optimizer = RegNewton([x], damping=1e-3, curvature="hessian")

    def closure() -> Tensor:
        optimizer.zero_grad()
        one = torch.ones_like(x)  # indefinite for x above one, where the step leads
        matrix = torch.stack([torch.stack([one, x]), torch.stack([x, one])])
        if broken == "not a number" and float(x.detach()) != 0.5:
            matrix = matrix * torch.nan
        factor = cholesky.psd_safe_cholesky(matrix, max_tries=1)
        loss = factor.square().sum() + (x - 3).square() / 2
        loss.backward()
        return loss

    with pytest.warns(UserWarning, match="the closure raised N"):
        optimizer.step(closure)
    assert optimizer.last_step is not None
    assert not optimizer.last_step.accepted
    assert float(x.detach()) == 0.5
    with torch.no_grad():
        x.fill_(2.0)
    with pytest.raises((errors.NanError, errors.NotPSDError)):
        optimizer.step(closure)
    assert float(x.detach()) == 2.0
