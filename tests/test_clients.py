"""Closures of other packages, as these packages write them."""

from __future__ import annotations

import os

import pytest
import torch


def test_deepxde_trains_in_function_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DDE_BACKEND", "pytorch")
    pytest.importorskip("deepxde")
    from examples.benchmarks.deepxde_poisson import readings

    dtype = torch.get_default_dtype()
    try:
        *_, last = readings(seed=0, steps=150, every=150, curvature="gauss_newton")
    finally:
        torch.set_default_dtype(dtype)
    assert last.path == "FUNCTION_SPACE"
    assert last.error < 1e-4
