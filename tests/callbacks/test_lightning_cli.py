"""The example project that a YAML file drives, as its users run it."""

import csv
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jsonargparse") is None, reason="LightningCLI needs jsonargparse"
    ),
]


def project(folder, namespace):
    """A copy of the example in which everything comes from `namespace`."""
    for path in (ROOT / "examples" / "lightning_cli").iterdir():
        if path.suffix in (".py", ".yaml"):
            text = path.read_text().replace("pytorch_lightning", namespace)
            (folder / path.name).write_text(text)
    return folder


def run(folder, *arguments):
    """The rows of the log of a run."""
    command = [sys.executable, "main.py", "fit", "--config", "newton.yaml", *arguments]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--trainer.enable_progress_bar=false"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (folder / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(rows, key):
    return {int(row["step"]): float(row[key]) for row in rows if row.get(key)}


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_the_whole_project_runs_from_its_file(tmp_path, namespace):
    given = ["--trainer.max_epochs=3", "--optimizer.scaling=null"]  # damped by lambda I alone
    rows = run(project(tmp_path, namespace), *given)
    losses = column(rows, "train_loss")
    assert losses[29] < 0.3 * losses[0]
    low, shifted = column(rows, "hessian/lambda_min"), column(rows, "hessian/damped_lambda_min")
    damping = column(rows, "newton/damping")
    assert sorted(low) == [0, 10, 20]
    for step in low:
        assert math.isclose(shifted[step], low[step] + damping[step], abs_tol=1e-9)
    rates = list(column(rows, "lr-RegNewton").values())
    assert rates[0] == 1.0
    assert math.isclose(rates[-1], 0.99**2)
    assert list(tmp_path.glob("**/most-definite*.ckpt"))


def test_the_command_line_changes_the_optimizer(tmp_path):
    rows = run(
        project(tmp_path, "pytorch_lightning"),
        "--trainer.max_epochs=2",
        "--optimizer=torch.optim.Adam",
        "--optimizer.lr=0.01",
    )
    assert "newton/damping" not in rows[0]
    assert sorted(column(rows, "hessian/lambda_min")) == [0, 10, 20]
    assert next(iter(column(rows, "lr-Adam").values())) == 0.01
