"""A Hessian that is not symmetric is logged as NaN; one that nearly is widens the error bounds."""

import math

import pytest
import torch

from lightning_callbacks.allowance import Allowance, OutOfTimeError
from lightning_callbacks.bounded import extremes_within, first_vector, spectrum_within
from lightning_callbacks.spectrum import hessian_spectrum
from lightning_callbacks.symmetry import asymmetry_within, asymmetry_work
from lightning_callbacks.work import run
from tests.callbacks.lightning_helpers import (
    ADAM,
    batches,
    memory_logger,
    monitoring,
    regression,
    trainer,
)
from tests.helpers import symmetric_with
from torch_newton import LinearOperator, RegNewton, from_dense


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


@pytest.mark.parametrize("exact_up_to", [400, 0])
@pytest.mark.parametrize("optimizer", [ADAM, lambda params: RegNewton(params)])
def test_nor_is_it_one_in_limited_time(one_pl, exact_up_to, optimizer):
    # So many steps' worth of time that it is limited, and suffices.
    monitor = monitoring(
        1, damping=0.1, quantities=("hessian", "trace"), exact_up_to=exact_up_to, max_pause=1e4
    )
    module = regression(one_pl, net=weight_normed(), optimizer=optimizer)
    logger = memory_logger(one_pl)
    with pytest.warns(UserWarning, match="not symmetric") as caught:
        trainer(one_pl, 30, monitor, logger=logger).fit(module, batches())
    assert sum("not symmetric" in str(warning.message) for warning in caught) == 1
    # The first measurement: where the residuals vanish, later, so does the wrong part.
    for key in ("hessian/lambda_min", "hessian/lambda_max", "hessian/trace"):
        assert math.isnan(next(iter(logger.of(key).values()))), key
    assert next(iter(logger.of("hessian/lambda_min_error").values())) == math.inf


def counted(matrix, products):
    """A matrix that counts its products, and that with the first vector."""

    def product(v):
        products.append(v)
        return matrix @ v

    H = LinearOperator(matrix.shape, product, product, matrix.dtype, matrix.device)
    return H, lambda: matrix @ first_vector(H)


def test_in_limited_time_it_takes_one_product_or_three():
    symmetric = symmetric_with(torch.linspace(-1, 5, 30), seed=1)
    skew = torch.randn(30, 30, generator=torch.Generator().manual_seed(2)).double()
    for matrix, explained, count in ((symmetric, True, 1), (symmetric + skew, False, 3)):
        products = []
        gradient = torch.arange(30.0).double()
        H, first = counted(matrix, products)
        found = asymmetry_within(H, gradient, Allowance(1e3), first)
        assert found.explained is explained
        assert len(products) == count
    # The size is a normal variable's absolute value, about.
    assert 0.1 < found.size / float(torch.linalg.matrix_norm(skew - skew.T)) < 3


def test_rounding_errors_along_the_gradient_are_no_asymmetry():
    """As in single precision where the loss has come down to rounding: they are those of H u."""
    n = 10_000
    g = torch.ones(n) / n**0.5
    random = torch.Generator().manual_seed(3)

    def product(v):  # of g g^T, with an error along g that changes with v
        return g * (g @ v + 1e-3 * v.norm() * torch.randn((), generator=random))

    H = LinearOperator((n, n), product, product, g.dtype, g.device)
    assert asymmetry_within(H, g, Allowance(1e3)).explained


def test_without_time_nothing_is_taken_to_be_symmetric():
    products, allowance = [], Allowance(1e3)
    allowance.costs.put("product", 700.0)
    H, first = counted(torch.eye(5).double(), products)
    with pytest.raises(OutOfTimeError):
        asymmetry_within(H, torch.ones(5), allowance, first)
    assert not products


@pytest.mark.parametrize("length", [0.0, 1e-12, 1e12])
def test_the_product_with_the_gradient_is_one_of_the_two(length):
    matrix = symmetric_with(torch.linspace(-1, 5, 30), seed=1)
    g = length * torch.ones(30).double()
    H, first = counted(matrix, products := [])
    work = asymmetry_work(H, g, Allowance(1e3), None, first)
    found = run(work, Allowance(1e3))
    assert len(products) == 1
    if length:
        torch.testing.assert_close(found.along_gradient, matrix @ g)
    else:
        assert found.along_gradient is None


def test_asymmetry_widens_the_error_bound_in_limited_time():
    H, allowance = from_dense(symmetric_with([-1.0, 0.5, 1.0, 2.0])), Allowance(1e3)
    allowance.costs.put("product", 10.0)  # too slow for full effort
    found = spectrum_within(
        H, 1e-16, allowance, exact_up_to=0, products=4, vectors=False, asymmetry=1e-3
    )
    assert allowance.reduced
    assert found.extremes.smallest.error_bound >= 1e-3
    assert found.rounding == 1e-3
    extremes, rounding = extremes_within(H, 1e-16, allowance, 4, 1e-3)
    assert extremes.largest.error_bound >= 1e-3
    assert rounding == 1e-3
