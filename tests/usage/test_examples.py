"""The examples on images and on text train, compare both optimizers, and draw."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ["resnet_images", "small_gpt"])
def test_pictures_are_small(name: str) -> None:
    assert (EXAMPLES / "pictures" / f"{name}.png").stat().st_size < 200_000
