"""Single precision, autocast and gradient scaling."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.helpers import mlp, randn
from torch_newton import ClosureError, RegNewton


def problem() -> tuple[torch.nn.Module, Tensor, Tensor]:
    x = randn(30, 2, seed=1).float()
    return mlp(2, 16, 1).float(), x, torch.sin(2 * x[:, :1])


def closure_of(
    optimizer: RegNewton, model: torch.nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [{}, {"preconditioner": None}, {"curvature": "gauss_newton"}, {"damping": 1.0}],
    ids=str,
)
def test_autocast_trains(options: dict[str, Any], dtype: torch.dtype) -> None:
    model, x, y = problem()
    optimizer = RegNewton(model.parameters(), **options)
    closure = closure_of(optimizer, model, x, y, dtype)
    first = functional.mse_loss(model(x), y).item()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            optimizer.step(closure)
            assert all(p.dtype is torch.float32 for p in model.parameters())
            assert all(p.grad.dtype is torch.float32 for p in model.parameters())
            assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert functional.mse_loss(model(x), y).item() < 0.5 * first


def test_a_scaler_that_steps_is_refused_with_the_way_out() -> None:
    model, x, y = problem()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer, scaler = RegNewton(model.parameters()), torch.amp.GradScaler("cpu")
    scaler.scale(functional.mse_loss(model(x), y)).backward()
    with pytest.raises(ClosureError, match="bf16-mixed"):
        scaler.step(optimizer)
    with pytest.raises(ClosureError, match="bf16-mixed"):
        scaler.step(optimizer, lambda: functional.mse_loss(model(x), y))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.last_step is None


def test_a_disabled_scaler_is_no_obstacle() -> None:
    model, x, y = problem()
    optimizer = RegNewton(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scaler.step(optimizer, closure_of(optimizer, model, x, y, torch.bfloat16))
    assert optimizer.last_step is not None


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_parameters_under_lightning_are_refused(
    namespace: str, precision: str
) -> None:
    pl = pytest.importorskip(namespace)
    _, x, y = problem()

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(2, 4, 1).float()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> RegNewton:
            return RegNewton(self.parameters())

    trainer = importlib.import_module(namespace).Trainer(
        max_steps=1,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=30)
    with pytest.raises(TypeError, match="precision='bf16-mixed'"):
        trainer.fit(Module(), loader)
