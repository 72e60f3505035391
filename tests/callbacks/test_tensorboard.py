"""Histograms and figures for TensorBoard, where that is installed."""

import importlib
import subprocess
import sys

import pytest

from tests.callbacks.lightning_helpers import ALL, batches, monitoring, regression, trainer


def test_tensorboard_gets_histograms_and_figures(pl, tmp_path):
    pytest.importorskip("tensorboard")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    monitor = monitoring(1, "a/", quantities=ALL)
    trainer(pl, 2, monitor, logger=logger).fit(regression(pl), batches())
    events = reader.EventAccumulator(logger.log_dir, {"images": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    names = {f"a/{name}/eigenvalues" for name in ("hessian", "ntk", "nntk", "nntk_hessian")}
    assert set(tags["histograms"]) == names
    assert [event.step for event in events.Histograms("a/hessian/eigenvalues")] == [0, 1, 2]
    assert events.Histograms("a/ntk/eigenvalues")[0].histogram_value.num == 10
    assert tags["images"] == ["a/spectra"]
    assert [event.step for event in events.Scalars("a/hessian/lambda_min")] == [0, 1, 2]


def test_tensorboard_without_matplotlib_gets_histograms_alone(one_pl, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("lightning_callbacks.tensorboard.find_spec", lambda name: None)
    logger = one_pl.loggers.TensorBoardLogger(tmp_path)
    written = []
    monkeypatch.setattr(logger.experiment, "add_figure", lambda *a, **k: written.append(a))
    trainer(one_pl, 1, monitoring(1), logger=logger).fit(regression(one_pl), batches())
    assert not written


def test_neither_matplotlib_nor_tensorboard_is_needed():
    code = (
        "import sys, lightning_callbacks; lightning_callbacks.CurvatureMonitor(); "
        "sys.exit('lightning_callbacks.figures' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
