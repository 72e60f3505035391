"""A Hessian that is not symmetric is logged as NaN; one that nearly is widens the error bounds."""

import math

import pytest
import torch

from lightning_callbacks.spectrum import hessian_spectrum
from tests.callbacks.lightning_helpers import ADAM, batches, monitoring, regression, trainer
from tests.helpers import symmetric_with
from torch_newton import RegNewton, from_dense


def weight_normed():
    torch.manual_seed(0)
    weight_norm = torch.nn.utils.parametrizations.weight_norm
    return torch.nn.Sequential(
        weight_norm(torch.nn.Linear(2, 8)), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ).double()


@pytest.mark.parametrize("exact_up_to", [400, 0])
@pytest.mark.parametrize("optimizer", [ADAM, lambda params: RegNewton(params)])
def test_a_wrong_second_derivative_is_no_number(one_pl, exact_up_to, optimizer):
    monitor = monitoring(1, damping=0.1, quantities=("hessian", "trace"), exact_up_to=exact_up_to)
    module = regression(one_pl, net=weight_normed(), optimizer=optimizer)
    with pytest.warns(UserWarning, match="not symmetric"):
        trainer(one_pl, 1, monitor).fit(module, batches())
    for key in ("hessian/lambda_min", "hessian/lambda_max", "hessian/trace"):
        assert math.isnan(monitor.latest[key]), key
    assert monitor.latest["hessian/lambda_min_error"] == math.inf


@pytest.mark.parametrize("exact_up_to", [400, 0])
def test_asymmetry_widens_the_error_bound(exact_up_to):
    H = from_dense(symmetric_with([-1.0, 0.5, 1.0, 2.0]))
    found = hessian_spectrum(H, 1e-16, exact_up_to=exact_up_to, products=4, asymmetry=1e-3)
    assert found is not None
    assert found.extremes.smallest.error_bound >= 1e-3
    assert found.extremes.lowest <= -1.0 - 0.9e-3
