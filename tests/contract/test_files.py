"""The messages of these tests point to files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.files import ROOT, files_that_name


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.py")), ids=lambda p: p.name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"(?:[a-z_]+/)+[a-z_]+\.py", path.read_text()))
    lost = [
        name
        for name in sorted(named)
        if not any((folder / name).is_file() for folder in (ROOT, ROOT / "torch_newton"))
    ]
    assert not lost, f"the messages in {path.name} name files that have moved: {lost}"


def test_files_are_found_by_what_they_name() -> None:
    assert files_that_name("MmBackward0", "mat2")
    assert not files_that_name("MmBackward0", "nothing of the kind")
