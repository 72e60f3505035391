"""The problems in JAX are those in PyTorch; only where the extra `records` is installed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("jax")
pytest.importorskip("nlls_gram")
pytest.importorskip("randngd")
pytest.importorskip("ssbroyden_optimistix")

import jax

from examples.records import runner
from examples.records.peers.__main__ import run
from examples.records.peers.bridge import InJax, array
from examples.records.peers.equations import EQUATIONS
from examples.records.peers.methods import METHODS
from examples.records.problems import PROBLEMS


@pytest.fixture(autouse=True)
def _double(float64: None) -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", EQUATIONS)
def test_residuals_and_loss_are_those_in_pytorch(name: str) -> None:
    training = PROBLEMS[name].build(0)
    training.points = tuple(points[:50] for points in training.points)
    inside = InJax(training, EQUATIONS[name])
    expected = training.residuals(training.net, *training.points)
    for (residual, points, _), here in zip(inside.terms, expected, strict=True):
        there = jax.vmap(residual, (None, 0))(inside.params, points)
        assert torch.allclose(torch.tensor(jax.device_get(there)), here[:, 0], rtol=1e-9)
    assert float(inside.loss(inside.params)) == pytest.approx(
        float(training.loss().detach()), rel=1e-12
    )


def test_parameters_come_back() -> None:
    training = PROBLEMS["helmholtz"].build(0)
    inside = InJax(training, EQUATIONS["helmholtz"])
    inside.write([2 * value for value in inside.params])
    for before, after in zip(inside.params, training.net.parameters(), strict=True):
        assert (2 * before == array(after)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_lowers_the_error(method: str) -> None:
    done = run(PROBLEMS["heat-1d"], method, 0, budget=5.0)
    assert done.steps > 0
    assert done.compiled > 0
    assert done.curve[-1][2] < done.curve[0][2]
    assert done.curve[-1][0] >= 5.0


def test_scimbas_optimizer_takes_our_closure_and_refuses_a_matrix_that_has_no_room() -> None:
    pytest.importorskip("scimba_torch")
    done = runner.run(PROBLEMS["heat-1d"], "SSBroyden (Scimba)", 0, budget=3.0)
    assert done.status == "budget"
    assert done.curve[-1][2] < done.curve[0][2] / 2
    refused = runner.run(PROBLEMS["heat-4d-few-rows"], "SSBroyden (Scimba)", 0, budget=1.0)
    assert refused.status.startswith("ValueError: P = 116,865")
    assert refused.steps == 0


def test_a_method_that_raises_is_recorded_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem):
        raise MemoryError("31 GB")

    monkeypatch.setitem(METHODS, "broken", broken)
    assert run(PROBLEMS["heat-1d"], "broken", 0, budget=1.0).status == "MemoryError: 31 GB"
