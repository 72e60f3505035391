"""The table of logged quantities: what documents it, what it computes once, and a user's own."""

import csv
import importlib
import inspect
import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_callbacks import QUANTITIES, CurvatureMonitor, Measured, Need, Quantity
from lightning_callbacks import jacobian as jacobians
from lightning_callbacks import point as points
from lightning_callbacks.quantities.table import documentation_table
from tests.helpers import mlp, randn
from torch_newton import RegNewton

X, Y = randn(10, 2, seed=1), randn(10, 1, seed=2)


class Regression(pl.LightningModule):
    def __init__(self, factor=1.0, optimizer=torch.optim.Adam):
        super().__init__()
        self.net = mlp(2, 5, 1)
        self.factor, self.optimizer = factor, optimizer

    def training_step(self, batch):
        x, y = batch
        return self.factor * torch.nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return self.optimizer(self.net.parameters())


def fit(monitor, module=None, steps=2, logger=False):
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, callbacks=[monitor], accelerator="cpu", logger=logger,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module or Regression(), DataLoader(TensorDataset(X, Y), batch_size=len(X)))
    return trainer


def monitoring(**options):
    return CurvatureMonitor(1, max_overhead=None, **options)


# Recipe: a logged quantity of your own


class GradientNorm(Quantity):
    name = "gradient"
    documentation = (("gradient/norm", "Euclidean norm of the gradient"),)

    def compute(self, point):
        return Measured({"gradient/norm": float(point.gradient.norm())})


def test_a_quantity_of_ones_own_is_logged(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    monitor = monitoring(quantities=("hessian", GradientNorm()))
    trainer = fit(monitor, logger=logger)
    norm = float(trainer.callback_metrics["gradient/norm"])
    assert norm == monitor.latest["gradient/norm"] > 0
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    assert float(rows[-1]["gradient/norm"]) == norm


def test_it_is_nan_where_the_gradient_is_not_finite():
    trainer = fit(monitoring(quantities=GradientNorm()), Regression(math.nan))
    assert math.isnan(trainer.callback_metrics["gradient/norm"])


# End of the recipe


def test_a_quantity_of_ones_own_has_a_name_in_the_table(monkeypatch):
    monkeypatch.setitem(QUANTITIES, "gradient", GradientNorm())
    monitor = monitoring(quantities=["gradient"], log_key_prefix="a/")
    fit(monitor)
    assert set(monitor.latest) == {"a/gradient/norm"}


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, RegNewton])
def test_a_quantity_of_ones_own_may_use_all_of_the_point(optimizer):
    seen = []

    class Everything(Quantity):
        name = "everything"
        # A step of RegNewton does not say what its loss would be elsewhere.
        needs = frozenset(Need) - ({Need.EVALUATION} if optimizer is RegNewton else set())
        documentation = (("everything/loss", "loss"),)

        def compute(self, point):
            spectrum, J = point.spectrum, point.jacobian
            seen.append((spectrum.eigenvectors.shape, J.plain.dense().shape, point.step))
            loss = point.loss.detach()  # a tensor is as good as a float
            return Measured({"everything/loss": loss}, spectrum.eigenvalues)

    monitor = monitoring(quantities=Everything())
    module = Regression(optimizer=optimizer)
    fit(monitor, module)
    *shapes, last = seen[-1]
    assert shapes == [(21, 21), (10, 21)]
    assert last is None if optimizer is torch.optim.Adam else last.iteration == 2
    assert isinstance(monitor.latest["everything/loss"], float)
    assert len(monitor.spectra["everything"]) == 21


def test_what_needs_outputs_is_left_out_where_the_loss_shows_none():
    class Rows(Quantity):
        name = "rows"
        needs = frozenset({Need.JACOBIAN})
        documentation = (("rows/count", "number of outputs"),)

        def compute(self, point):
            return Measured({"rows/count": point.jacobian.plain.rows})

    class Concave(Regression):
        def training_step(self, batch):
            return -(self.net(batch[0]) - batch[1]).norm(p=4)

    monitor = monitoring(quantities=(Rows(), "hessian"))
    fit(monitor)
    assert monitor.latest["rows/count"] == 10
    with pytest.warns(UserWarning, match="outputs=callable"):
        fit(monitor, Concave())
    assert "rows/count" not in monitor.latest
    assert "hessian/lambda_min" in monitor.latest


class Undocumented(GradientNorm):
    def compute(self, point):
        return Measured({"gradient/size": 1.0})


def test_a_key_that_is_not_documented_is_refused():
    with pytest.raises(ValueError, match="'gradient' returned gradient/size, which its docu"):
        fit(monitoring(quantities=Undocumented()))


class Other(GradientNorm):
    name = "other"


@pytest.mark.parametrize(
    ("quantities", "reason"),
    [
        ((GradientNorm(), Other()), "several log gradient/norm"),
        (("hessian", GradientNorm), "instances of Quantity, not <class"),
        (("hessian", 3), "not 3"),
    ],
)
def test_quantities_that_cannot_be_logged_are_explained(quantities, reason):
    exceptions = importlib.import_module("lightning_fabric.utilities.exceptions")
    with pytest.raises(exceptions.MisconfigurationException, match=reason):
        fit(monitoring(quantities=quantities))


# The table


def test_the_monitor_documents_every_key():
    assert documentation_table(QUANTITIES.values()) in inspect.getdoc(CurvatureMonitor)


class TwoTerms(Regression):
    """Fits the first half of the batch, and twice as much the second."""

    def training_step(self, batch):
        x, y = batch
        near, far = (torch.nn.functional.mse_loss(self.net(x[i]), y[i]) for i in HALVES)
        return near + 2 * far


HALVES = (slice(0, 5), slice(5, 10))
OF_TERMS = ("alignment", "gram_shares")
"""Quantities of which nothing is logged where the loss has one term, or nobody knows."""


@pytest.mark.parametrize("name", QUANTITIES)
def test_the_documentation_lists_what_is_logged(name):
    quantity = QUANTITIES[name]
    assert quantity.name == name
    documented = [key for key, _ in quantity.documentation]
    known = [key for key in documented if "<" not in key]
    assert list(quantity.unknown()) == ([] if name in OF_TERMS else known)
    newton = [key for key, _ in QUANTITIES["newton"].documentation]
    monitor = monitoring(quantities=name)
    fit(monitor, Regression(optimizer=RegNewton))
    expected = [] if name in OF_TERMS else known
    assert list(monitor.latest) == list(dict.fromkeys(expected + newton))
    fit(monitor, TwoTerms(optimizer=RegNewton))
    numbered = {key for key in documented if "<" in key}
    expected = dict.fromkeys(key for key in documented if key not in numbered)
    for key in numbered:
        pair = key.replace("<j>", "0").replace("<k>", "1")
        both = {pair} if "<j>" in key else {key.replace("<k>", str(k)) for k in (0, 1)}
        expected |= dict.fromkeys(both)
    assert set(monitor.latest) == set(expected) | set(newton)


@pytest.mark.parametrize("name", [name for name in QUANTITIES if name != "newton"])
def test_the_keys_are_the_same_where_nothing_is_known(name):
    known, unknown = monitoring(quantities=name), monitoring(quantities=name)
    fit(known)
    fit(unknown, Regression(math.nan))
    assert list(known.latest) == list(unknown.latest)


def counted(monkeypatch, module, name, counts):
    original = getattr(module, name)

    def count(*args, **kwargs):
        counts[name] = counts.get(name, 0) + 1
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, count)


@pytest.mark.parametrize(
    ("quantities", "expected"),
    [
        (tuple(QUANTITIES), {"hessian_spectrum": 1, "rows_of_loss": 1, "kernel_spectrum": 1}),
        (("hessian", "trace"), {"hessian_spectrum": 1}),
        (("ntk", "nntk"), {"rows_of_loss": 1, "kernel_spectrum": 1}),
        ((GradientNorm(),), {}),
    ],
    ids=["all", "Hessian", "kernels", "gradient"],
)
def test_what_quantities_share_is_computed_once_and_only_if_used(monkeypatch, quantities, expected):
    counts = {}
    for module, name in (
        (points, "hessian_spectrum"), (points, "kernel_spectrum"), (jacobians, "rows_of_loss"),
    ):  # fmt: skip
        counted(monkeypatch, module, name, counts)
    monitor = monitoring(quantities=quantities, logging_interval="epoch")
    fit(monitor, steps=1)  # measured before the first step, and at the end of the epoch
    assert counts == {name: 2 * count for name, count in expected.items()}
