"""Trainers that call ``step()`` without a closure, and the recipes that give them one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torch_newton import ClosureError, RegNewton


def test_huggingface_trainer() -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    pytest.importorskip("sklearn")
    from examples.clients import huggingface_trainer as client

    before = client.loss_of(client.network(0))
    after, _ = client.train_newton(25)
    assert after < 0.5 * before
    assert client.train_default(0.01) < 2 * before
    model = client.network(0)
    plain = transformers.Trainer(
        model,
        client.arguments(2),
        train_dataset=client.Digits(),
        optimizers=(RegNewton(model.parameters()), None),
    )
    with pytest.raises(ClosureError, match="Hugging Face's Trainer"):
        plain.train()


def test_ignite() -> None:
    engine = pytest.importorskip("ignite.engine")
    from examples.clients import ignite_engine as client

    loss, _ = client.train_newton(40)
    assert loss < 2e-3
    assert client.train_default(0.01) < 1.0
    model, data = client.problem(0)
    plain = engine.create_supervised_trainer(
        model, RegNewton(model.parameters()), nn.functional.mse_loss
    )
    with pytest.raises(ClosureError, match="define closure"):
        plain.run(data)


def test_ignite_stops_at_rest() -> None:
    pytest.importorskip("ignite.engine")
    from examples.clients.ignite_engine import newton_trainer

    torch.manual_seed(0)
    model = nn.Linear(2, 1).double()
    optimizer = RegNewton(model.parameters())
    trainer = newton_trainer(model, optimizer, nn.functional.mse_loss)
    x = torch.randn(9, 2, dtype=torch.float64)
    state = trainer.run([(x, x.square().sum(1, True))], max_epochs=100)
    assert state.iteration < 50
    assert optimizer.last_step is not None
    assert optimizer.last_step.converged


def test_accelerate() -> None:
    pytest.importorskip("accelerate")
    from examples.clients import accelerate_loop as client

    loss, _ = client.train_newton(40)
    assert loss < 2e-3
    assert client.train_default(0.01) < 1.0


def test_skorch_in_a_pipeline_and_a_grid_search() -> None:
    pytest.importorskip("skorch")
    pytest.importorskip("sklearn")
    from examples.clients import skorch_search as client

    loss, _ = client.train_newton(30)
    assert loss < 0.4
    assert client.train_default(0.01) < 2.0
    found: dict[str, Any] = client.search(5)
    assert found["net__module__width"] in (1, 2, 4)
    assert found["error"] < 0.6


def test_torchdiffeq() -> None:
    pytest.importorskip("torchdiffeq")
    from examples.clients import torchdiffeq_ode as client

    loss, _ = client.train_newton(6)
    assert loss < 0.2
    assert client.train_default(0.01) < 2.0
