"""Checks that fail because of a known defect: an entry goes when its defect is mended."""

from __future__ import annotations

KNOWN: dict[str, dict[str, tuple[str, ...]]] = {}
"""By defect and check, the cases."""


def known_defect(case: str, check: str) -> str | None:
    """Why a check of a case is expected to fail; None where it is not."""
    for reason, checks in KNOWN.items():
        if case in checks.get(check, ()):
            return reason
    return None
