"""The examples train, compare the optimizers, print a line for each, and draw."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_images", "small_gpt"])
def test_an_example_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("matplotlib", "pytorch_lightning", "skimage", "tqdm"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [name, "--seconds", "0.1", "--output", str(tmp_path)])
    importlib.import_module(name).main()
    printed = capsys.readouterr().out
    rows = [
        line.split() for line in printed.splitlines() if line.startswith(("Adam ", "RegNewton "))
    ]
    assert {row[0] for row in rows if row[1].isdigit()} == {"Adam", "RegNewton"}
    assert 0 < (tmp_path / f"{name}.png").stat().st_size < 200_000


def test_the_quick_start_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("matplotlib", "tqdm"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    arguments = ["quickstart", "--seconds", "0.1", "--plain", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    importlib.import_module("quickstart").main()
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    table = printed[printed.index("Burgers") :].splitlines()[2:5]
    assert [row.split()[0] for row in table] == ["Adam", "L-BFGS", "RegNewton"]
    assert "\r" not in printed
    assert 0 < (tmp_path / "quickstart.png").stat().st_size < 200_000


def test_the_reference_of_the_quick_start_solves_the_equation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numpy")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    burgers = importlib.import_module("burgers")
    points = burgers.grid()[::97].requires_grad_()
    residual = burgers.loss(lambda p: burgers.exact(p[:, 0], p[:, 1])[:, None], points)
    assert float(residual.detach()) < 1e-16
    start = torch.zeros(9, dtype=torch.float64)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(burgers.exact(start, x), -(torch.pi * x).sin())


@pytest.mark.parametrize("name", ["quickstart", "co2", "resnet_images", "small_gpt"])
def test_pictures_are_small(name: str) -> None:
    assert (EXAMPLES / "pictures" / f"{name}.png").stat().st_size < 200_000
