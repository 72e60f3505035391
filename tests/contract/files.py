"""The files of the packages, to which the messages of these tests point."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def files_that_name(*words: str) -> str:
    """The files of torch_newton in which all of these occur as strings."""
    package = ROOT / "torch_newton"
    return ", ".join(
        str(path.relative_to(package))
        for path in sorted(package.rglob("*.py"))
        if all(f'"{word}"' in path.read_text() for word in words)
    )
