"""A run that is stopped anywhere goes on as if it had not been."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from tests.helpers import tally
from tests.trust.resume_worker import OPTIONS, Run

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_run_goes_on_from_its_checkpoint_bit_by_bit(
    name: str, after: int, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = Run(name)
        for _ in range(after):
            run.step()
        run.save(tmp_path / "run.pt")
        for _ in range(4):
            run.step()
        expected = run.end()
        torch.manual_seed(99)
        resumed = Run(name)
        resumed.load(tmp_path / "run.pt")
        for _ in range(4):
            resumed.step()
    assert resumed.optimizer.last_step == run.optimizer.last_step
    assert all(torch.equal(a, b) for a, b in zip(resumed.end(), expected, strict=True))


def start(name: str, folder: Path, steps: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "resume_worker.py"), name, str(folder), str(steps)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finish(name: str, folder: Path, steps: int) -> list[torch.Tensor]:
    process = start(name, folder, steps)
    process.communicate(timeout=120)
    assert process.returncode == 0
    end: list[torch.Tensor] = torch.load(folder / "end.pt")
    return end


def kill(name: str, folder: Path, steps: int, at: int, delay: float) -> bool:
    """Kill the run some time after its `at`-th step; whether it was running still."""
    process = start(name, folder, steps)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == str(at) or (at == 0 and line.strip() == "started"):
            break
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


def killed_and_resumed(name: str, kills: int, steps: int, tmp_path: Path, what: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = finish(name, whole, steps)
    draw = random.Random(0)
    identical = 0
    for i in range(kills):
        folder = tmp_path / str(i)
        folder.mkdir()
        at = draw.randrange(steps - 5)
        while not kill(name, folder, steps, at, draw.random() * 0.02):
            (folder / "end.pt").unlink(missing_ok=True)
            at = 0
        assert not (folder / "end.pt").exists()
        end = finish(name, folder, steps)
        identical += all(torch.equal(a, b) for a, b in zip(end, expected, strict=True))
    tally(f"runs killed and resumed identically, {what}", kills, identical)
    assert identical == kills


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_goes_on_identically(tmp_path: Path) -> None:
    killed_and_resumed("auto-auto-auto", 1, 40, tmp_path, "plain loop")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_killed_at_any_point_goes_on_identically(tmp_path: Path) -> None:
    killed_and_resumed("auto-auto-auto", 20, 40, tmp_path, "plain loop")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.skipif(importlib.util.find_spec("pytorch_lightning") is None, reason="needs Lightning")
def test_a_lightning_run_killed_at_any_point_goes_on_identically(tmp_path: Path) -> None:
    killed_and_resumed("lightning", 20, 25, tmp_path, "Lightning")


def test_every_named_rule_is_tried() -> None:
    from torch_newton.damping import RULES

    assert set(RULES) <= {name.split("-", maxsplit=1)[0] for name in OPTIONS}
