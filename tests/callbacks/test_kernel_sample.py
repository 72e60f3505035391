"""The tangent kernel of a sample of rows, against that of all rows."""

import math
from types import SimpleNamespace

import pytest
import torch

from lightning_callbacks.quantities.kernel_sample import KernelSample
from tests.callbacks.lightning_helpers import X, Y, batches, monitoring, regression, trainer
from tests.helpers import mlp, problem_of, randn


def measured(one_pl, rows, net, x=X, y=Y):
    monitor = monitoring(1, quantities=KernelSample(rows))
    module = regression(one_pl, net=net)
    J = problem_of(net, x, lambda z: torch.nn.functional.mse_loss(z, y)).jacobian()
    trainer(one_pl, 1, monitor).fit(module, batches(x, y))
    # The last measurement is after a step: the first is in the history.
    row = next(iter(monitor.history))
    found = {key.split("/")[1]: value for key, value in row.items() if "ntk_sample" in key}
    return SimpleNamespace(**found), J @ J.T


@pytest.mark.parametrize("rows", [2, 7, 19])
def test_its_extremes_interlace_those_of_all_rows(one_pl, rows):
    x, y = randn(10, 2, seed=1), randn(10, 2, seed=2)
    found, K = measured(one_pl, rows, mlp(2, 8, 2), x, y)
    values = torch.linalg.eigvalsh(K)
    assert (found.rows, found.all_rows) == (rows, 20)
    chosen = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:rows]
    of_sample = torch.linalg.eigvalsh(K[chosen][:, chosen])
    assert found.lambda_min == pytest.approx(float(of_sample[0]), rel=1e-6, abs=1e-12)
    assert found.lambda_max == pytest.approx(float(of_sample[-1]))
    assert values[0] <= found.lambda_min + found.error
    assert found.lambda_max <= values[-1] + found.error
    assert abs(found.trace - float(K.trace())) <= 5 * found.trace_error


def test_a_sample_of_all_rows_is_the_kernel(one_pl):
    found, K = measured(one_pl, 64, mlp(2, 9, 1))
    values = torch.linalg.eigvalsh(K)
    assert found.rows == found.all_rows == len(K)
    assert found.lambda_max == pytest.approx(float(values[-1]))
    assert found.lambda_min == pytest.approx(float(values[0]), abs=1e-10)


def test_the_trace_is_unbiased():
    x, y = randn(12, 2, seed=1), randn(12, 3, seed=2)
    net = mlp(2, 5, 3)
    K = problem_of(net, x, lambda z: torch.nn.functional.mse_loss(z, y)).jacobian()
    random = torch.Generator().manual_seed(3)
    signs = 2.0 * torch.randint(2, (4000, len(K)), generator=random).double() - 1
    squares = (signs @ K).square().sum(1)
    error = float(squares.std()) / math.sqrt(len(squares))
    assert abs(float(squares.mean() - K.square().sum())) <= 4 * error


def test_one_row_is_no_sample():
    with pytest.raises(ValueError, match="at least 2 rows"):
        KernelSample(1)
