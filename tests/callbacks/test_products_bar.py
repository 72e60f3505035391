"""The bar of a measurement that nothing limits."""

import pytest
import torch

from lightning_callbacks import CurvatureMonitor, products_bar
from tests.callbacks.lightning_helpers import OPTIMIZERS, batches, monitoring, regression, trainer
from tests.helpers import randn, symmetric_with
from torch_newton import from_dense


@pytest.mark.parametrize("optimizer", ["adam", "newton"])
@pytest.mark.parametrize("options", [{"effort": "exact"}, {"max_overhead": None}])
def test_it_appears_where_a_measurement_takes_long(one_pl, optimizer, options, monkeypatch, capsys):
    monkeypatch.setattr(products_bar, "PATIENCE", 0.0)
    monitor = CurvatureMonitor(1, quantities="hessian", **options)
    trainer(one_pl, 1, monitor).fit(regression(one_pl, OPTIMIZERS[optimizer]), batches())
    shown = capsys.readouterr().err
    assert "CurvatureMonitor" in shown
    assert "products" in shown


def test_it_does_not_where_one_is_short(one_pl, capsys):
    trainer(one_pl, 1, monitoring(1, quantities="hessian")).fit(regression(one_pl), batches())
    assert "CurvatureMonitor:" not in capsys.readouterr().err


def test_without_tqdm_there_is_none(monkeypatch):
    monkeypatch.setattr(products_bar, "find_spec", lambda name: None)
    with products_bar.bar(True) as tick:
        assert tick(3) is None


@pytest.mark.parametrize("columns", [None, 4])
def test_products_are_counted_and_left_as_they_are(columns):
    counts = []
    A = from_dense(symmetric_with([1.0, 2.0, 3.0]))
    v = randn(3, seed=1) if columns is None else randn(3, columns, seed=1)
    assert torch.equal(products_bar.counted(A, counts.append) @ v, A @ v)
    assert sum(counts) == (columns or 1)
