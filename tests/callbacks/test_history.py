"""The monitor's own record: a table of bounded size that survives a resumption, and its picture."""

import csv
import math
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch

from lightning_callbacks import CurvatureMonitor, History
from lightning_callbacks import history as histories
from lightning_callbacks.history import MAX_VALUES, KeptSpectrum, Thinned
from tests.callbacks.lightning_helpers import (
    ADAM,
    ALL,
    OPTIMIZERS,
    batches,
    bits,
    memory_logger,
    monitoring,
    regression,
    trainer,
)
from tests.helpers import mlp


@pytest.mark.parametrize("logged", [True, False])
def test_the_history_is_what_was_logged(one_pl, logged):
    memory = memory_logger(one_pl)
    monitor = monitoring(2, "curvature/", quantities=ALL)
    run = trainer(one_pl, 6, monitor, logger=memory if logged else False)
    run.fit(regression(one_pl), batches())
    assert monitor.history["step"] == [0, 2, 4, 6]
    assert monitor.history["epoch"] == [0, 1, 3, 5]
    assert len(monitor.history) == 4
    if logged:
        for key in monitor.history.columns[2:]:
            there = memory.of(f"curvature/{key}")
            assert bits(list(there.values())) == bits(monitor.history[key]), key
    steps, kept = monitor.history.spectra("hessian")
    assert steps == [0, 2, 4, 6]
    assert torch.equal(kept[-1].values, monitor.spectra["hessian"])
    with pytest.raises(KeyError, match="'loss' was never measured; there are step"):
        monitor.history["loss"]


def test_a_csv_file_has_a_line_for_each_row(tmp_path):
    history = History()
    history.append(0, 0, {"a": 1.5}, {})
    history.append(3, 1, {"b": math.nan}, {})
    history.to_csv(tmp_path / "h.csv")
    with (tmp_path / "h.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "0", "epoch": "0", "a": "1.5", "b": ""},
        {"step": "3", "epoch": "1", "a": "", "b": "nan"},
    ]


def test_pandas_has_the_same_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    history = History()
    history.append(0, 0, {"a": 1.5}, {})
    history.append(3, 1, {"b": 2.0}, {})
    frame = history.to_pandas()
    assert list(frame.columns) == ["step", "epoch", "a", "b"]
    assert frame["step"].tolist() == [0, 3]
    assert math.isnan(frame["a"][1])
    if find_spec("pyarrow") is None and find_spec("fastparquet") is None:
        with pytest.raises(ModuleNotFoundError, match="pip install pyarrow"):
            history.to_parquet(tmp_path / "h.parquet")
    else:
        history.to_parquet(tmp_path / "h.parquet")
        assert pandas.read_parquet(tmp_path / "h.parquet").equals(frame)


def test_without_pandas_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    history = History()
    history.append(0, 0, {"a": 1.5}, {})
    with pytest.raises(ModuleNotFoundError, match=r"pip install pandas.*to_csv"):
        history.to_pandas()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 100, 1000, 1024, 1025])
def test_what_is_kept_is_bounded_and_covers_the_run_evenly(count):
    thinned = Thinned(8)
    for i in range(count):
        thinned.append(i)
        kept = list(thinned)
        assert kept[0] == 0
        assert kept[-1] == i
        assert len(kept) <= 8 + 2
        assert len(set(kept)) == len(kept)
    gaps = {b - a for a, b in pairwise(kept[:-1])}
    assert len(gaps) <= 1
    copy = Thinned(8)
    copy.load_state_dict(thinned.state_dict())
    for both in (thinned, copy):
        both.append(count)
    assert list(copy) == list(thinned)


def test_a_thinned_spectrum_counts_all_eigenvalues_and_keeps_its_ends():
    values = torch.randn(5000, dtype=torch.float64)
    kept = KeptSpectrum.of(values)
    assert len(kept.values) == MAX_VALUES
    assert float(kept.weights.sum()) == pytest.approx(5000)
    ordered = values.sort().values
    assert torch.equal(kept.values[:64], ordered[:64])
    assert torch.equal(kept.values[-64:], ordered[-64:])
    below = float(kept.weights[kept.values < 0.5].sum()) / 5000
    assert below == pytest.approx(float((values < 0.5).double().mean()), abs=0.02)


def test_a_resumed_run_goes_on_with_its_history(one_pl, tmp_path, monkeypatch):
    monkeypatch.setattr(histories, "MAX_ROWS", 4)
    monkeypatch.setattr(histories, "MAX_SPECTRA", 2)

    def run(steps, monitor, path=None):
        fit = trainer(one_pl, steps, monitor)
        fit.fit(regression(one_pl), batches(), ckpt_path=path)
        return fit

    whole, first, second = (monitoring(1, damping=0.1) for _ in range(3))
    run(12, whole)
    run(7, first).save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)  # nothing but numbers and tensors
    run(12, second, tmp_path / "half.ckpt")
    assert second.history["step"] == whole.history["step"]
    for key in whole.history.columns:
        assert bits(second.history[key]) == bits(whole.history[key]), key
    for name in ("hessian", "ntk", "nntk"):
        assert bits(second.history.state_dict()) == bits(whole.history.state_dict())
        assert len(whole.history.spectra(name)[0]) <= 4


def test_a_checkpoint_without_history_is_taken():
    monitor = monitoring()
    state = monitor.state_dict()
    del state["history"]
    monitoring().load_state_dict(state)


def test_every_run_has_its_own_history(one_pl):
    monitor = monitoring(1)
    for steps in (3, 1):
        trainer(one_pl, steps, monitor).fit(regression(one_pl), batches())
    assert monitor.history["step"] == [0, 1]


# Pictures


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_history_is_drawn(one_pl, optimizer):
    pytest.importorskip("matplotlib")
    monitor = monitoring(1, quantities=ALL)
    trainer(one_pl, 4, monitor).fit(regression(one_pl, OPTIMIZERS[optimizer]), batches())
    figure = monitor.plot()
    assert titles(figure) == [
        "definiteness margin", "sharpness", "spectrum of H",
        r"NTK, $J J^\top$", r"NNTK, $\kappa/(\kappa+\lambda)$", "residuals",
    ]  # fmt: skip
    _, labels = figure.axes[1].get_legend_handles_labels()
    assert ("limit of SGD, 2/lr" in labels) == (optimizer == "sgd")
    figure.canvas.draw()


def test_only_what_was_measured_is_drawn(one_pl):
    pytest.importorskip("matplotlib")
    kernels = monitoring(1, quantities="ntk", max_rows=1)
    trainer(one_pl, 2, kernels).fit(regression(one_pl), batches())
    assert titles(kernels.plot()) == [r"ends of the NTK, $J J^\top$"]
    large = monitoring(1, quantities=("hessian", "nntk"), exact_up_to=0, max_rows=1)
    trainer(one_pl, 1, large).fit(regression(one_pl), batches())
    figure = large.plot()
    figure.canvas.draw()
    assert titles(figure)[1] == "ends of the spectrum of H"
    with pytest.raises(ValueError, match="nothing to draw"):
        CurvatureMonitor().plot()
    with pytest.raises(ValueError, match="'3/'"):
        large.plot(optimizer=3)


def test_a_history_of_not_a_number_draws_what_there_is(one_pl):
    pytest.importorskip("matplotlib")
    monitor = monitoring(1)
    broken = regression(one_pl, loss=lambda z, y: (z - y).square().mean() * math.nan)
    trainer(one_pl, 1, monitor).fit(broken, batches())
    with pytest.raises(ValueError, match="nothing to draw"):
        monitor.plot()


def test_plotting_needs_matplotlib_and_measuring_does_not(monkeypatch):
    monkeypatch.setattr("lightning_callbacks.monitor.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"torch-newton\[plots\]"):
        CurvatureMonitor().plot()
    code = (
        "import sys, lightning_callbacks; lightning_callbacks.CurvatureMonitor(); "
        "sys.exit('lightning_callbacks.overview' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The progress bar


@pytest.mark.parametrize("kind", ["TQDMProgressBar", "RichProgressBar"])
def test_chosen_numbers_are_in_the_progress_bar(pl, kind):
    if kind == "RichProgressBar":
        pytest.importorskip("rich")
    bar = getattr(pl.callbacks, kind)()
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(bar.get_metrics(trainer, module))

    monitor = monitoring(1, "p/", progress_bar=("hessian/lambda_min", "sharpness/gradient"))
    module = regression(pl)
    run = trainer(pl, 2, monitor, Watch(), bar, enable_progress_bar=True)
    run.fit(module, batches())
    assert seen[-1]["hessian/lambda_min"] == monitor.history["hessian/lambda_min"][-1]
    assert "sharpness/gradient" in seen[-1]
    assert not any(key.startswith("hessian") for key in bar.get_metrics(run, module))
    plain = regression(pl)
    trainer(pl, 2).fit(plain, batches())
    assert bits(module.state_dict()) == bits(plain.state_dict())


def test_without_a_progress_bar_nothing_is_shown(one_pl):
    monitor = monitoring(1, progress_bar=["hessian/lambda_min"])
    trainer(one_pl, 1, monitor).fit(regression(one_pl, ADAM, mlp(2, 5, 1)), batches())
    assert monitor.latest


@pytest.mark.parametrize("keys", [("lambda_min",), ("trace",), (3,), "hessian/lambda_min"])
def test_a_number_that_is_not_logged_cannot_be_shown(one_pl, keys):
    with pytest.raises(Exception, match="progress_bar to list keys"):
        trainer(one_pl, 1, monitoring(progress_bar=keys)).fit(regression(one_pl), batches())
