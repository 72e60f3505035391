"""The precision in which systems are solved."""

from __future__ import annotations

import pytest
import torch

from torch_newton.linalg import precision
from torch_newton.linalg.precision import solving_dtype


@pytest.mark.parametrize(
    ("device", "capability", "double"),
    [
        ("cpu", None, True),
        ("cuda", (8, 0), True),
        ("cuda", (9, 0), True),
        ("cuda", (8, 6), False),
        ("cuda", (8, 9), False),
        ("cuda", (12, 0), False),
        ("mps", None, False),
        ("meta", None, False),
    ],
)
def test_single_is_solved_in_double_where_that_is_fast(
    device: str, capability: tuple[int, int] | None, double: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision.torch.cuda, "get_device_capability", lambda device: capability)
    found = solving_dtype(torch.float32, torch.device(device))
    assert found is (torch.float64 if double else torch.float32)
    assert solving_dtype(torch.float64, torch.device(device)) is torch.float64
