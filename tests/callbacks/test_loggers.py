"""The loggers that people use, each the real one where its package is installed."""

import csv
import importlib

import pytest
import torch

from tests.callbacks.lightning_helpers import KEYS, batches, monitoring, regression, trainer

ALWAYS = {key for key in KEYS if key.startswith(("hessian/", "ntk/", "sharpness/"))}


def logged(one_pl, logger, **options):
    monitor = monitoring(1, "m/", **options)
    module = regression(one_pl, lambda params: torch.optim.SGD(params, lr=0.1))
    trainer(one_pl, 2, monitor, logger=logger).fit(module, batches())
    return monitor.history


def test_csv_has_a_column_for_each_number(pl, tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    history = logged(pl, logger)
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["m/hessian/lambda_min"]]
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    for key in ALWAYS:
        assert [float(row[f"m/{key}"]) for row in rows] == pytest.approx(history[key], nan_ok=True)


def test_tensorboard_has_a_curve_for_each_number(pl, tmp_path):
    pytest.importorskip("tensorboard")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    history = logged(pl, logger)
    events = reader.EventAccumulator(logger.log_dir)
    events.Reload()
    for key in ALWAYS:
        scalars = events.Scalars(f"m/{key}")
        assert [event.step for event in scalars] == [0, 1, 2]
        values = [event.value for event in scalars]
        assert values == pytest.approx(history[key], rel=1e-6, nan_ok=True)


def test_weights_and_biases_offline(one_pl, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = one_pl.loggers.WandbLogger(project="test", save_dir=tmp_path, offline=True)
    seen = []
    log = logger.experiment.log

    def watched(row, *args, **kwargs):
        seen.append(dict(row))
        return log(row, *args, **kwargs)

    monkeypatch.setattr(logger.experiment, "log", watched)
    history = logged(one_pl, logger)
    logger.experiment.finish()  # writes what is still in memory
    rows = [row for row in seen if "m/hessian/lambda_min" in row]
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 2]
    for key in ALWAYS:
        assert [row[f"m/{key}"] for row in rows] == pytest.approx(history[key], nan_ok=True)
    (file,) = tmp_path.glob("**/run-*.wandb")
    assert b"m/hessian/lambda_min" in file.read_bytes()


def test_mlflow_in_files(one_pl, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for a database else
    logger = one_pl.loggers.MLFlowLogger("test", tracking_uri=f"file:{tmp_path}")
    history = logged(one_pl, logger)
    for key in ALWAYS:
        if key == "hessian/positive_definite":
            continue  # not a number where nothing is proved, which not every store takes
        found = logger.experiment.get_metric_history(logger.run_id, f"m/{key}")
        assert [metric.step for metric in found] == [0, 1, 2], key
        values = [metric.value for metric in found]
        assert values == pytest.approx(history[key], nan_ok=True), key
