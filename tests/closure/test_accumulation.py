"""Gradient accumulation and clipping, by hand and under Lightning."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import assert_close, mlp, randn
from torch_newton import RegNewton, hessian
from torch_newton.linalg.flat import flatten

pytestmark = pytest.mark.usefixtures("float64")

DAMPING = 4.0


def batches(number: int) -> list[tuple[Tensor, Tensor]]:
    return [(randn(6, 2, seed=2 * i + 1), randn(6, 1, seed=2 * i + 2)) for i in range(number)]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def expected_move(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], clip: float | None = None
) -> Tensor:
    """-(H_k + lambda I)^-1 g, with g of all micro-batches and H of the last, of their mean loss."""
    params = list(model.parameters())
    mean = torch.stack([loss_of(model, batch) for batch in data]).mean()
    g = flatten(torch.autograd.grad(mean, params))
    if clip is not None:
        g = g * min(1.0, clip / (float(g.norm()) + 1e-6))
    H = hessian(loss_of(model, data[-1]), params).dense()
    return -torch.linalg.solve(H + DAMPING * torch.eye(len(H)), g)


def weights(model: nn.Module) -> Tensor:
    return flatten(model.parameters()).detach().clone()


@pytest.mark.parametrize("preconditioner", ["auto", None])
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("share", [True, False], ids=["mean", "sum"])
def test_accumulation_by_hand(share: bool, k: int, preconditioner: str | None) -> None:
    model, data = mlp(2, 4, 1), batches(k)
    factor = 1 / k if share else 1.0
    optimizer = RegNewton(
        model.parameters(),
        damping=DAMPING * factor * k,
        cg_tol=1e-13,
        preconditioner=preconditioner,
    )
    for _ in range(3):
        before, expected = weights(model), expected_move(model, data)
        optimizer.zero_grad()
        for batch in data[:-1]:
            (loss_of(model, batch) * factor).backward()

        def closure() -> Tensor:
            loss = loss_of(model, data[-1]) * factor
            loss.backward()
            return loss

        optimizer.step(closure)
        assert_close(weights(model) - before, expected, 1e-9)


def accumulated_steps(damping: Any, steps: int) -> tuple[nn.Module, list[float]]:
    model = mlp(2, 16, 1)
    x = randn(40, 2, seed=1)
    y = torch.sin(2 * x[:, :1]) * x[:, 1:]
    optimizer = RegNewton(model.parameters(), damping=damping)
    losses = []
    for _ in range(steps):
        losses.append(float(functional.mse_loss(model(x), y).detach()))
        optimizer.zero_grad()
        for part in range(3):
            loss_of(model, (x[part::4], y[part::4])).div(4).backward()

        def closure() -> Tensor:
            loss = loss_of(model, (x[3::4], y[3::4])) / 4
            loss.backward()
            return loss

        optimizer.step(closure)
    return model, losses


def test_the_adaptive_rule_trains_on_accumulated_gradients() -> None:
    """The ratio test sees the last micro-batch alone; it must keep the others from diverging."""
    _, losses = accumulated_steps("auto", 40)
    assert min(losses) < 0.1 * losses[0]
    assert max(losses) == losses[0]


def test_the_first_full_batch_counts_no_more_than_itself() -> None:
    """What has been accumulated and zeroed again is no part of the step."""
    model, data = mlp(2, 4, 1), batches(2)
    optimizer = RegNewton(model.parameters(), damping=DAMPING, cg_tol=1e-13)
    for zero in (optimizer.zero_grad, model.zero_grad):
        loss_of(model, data[0]).backward()
        zero()
        before, expected = weights(model), expected_move(model, data[1:])

        def closure() -> Tensor:
            loss = loss_of(model, data[1])
            loss.backward()
            return loss

        optimizer.step(closure)
        assert_close(weights(model) - before, expected, 1e-9)
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
    ids=["copy", "pickle"],
)
def test_a_copy_counts_for_itself(duplicate: Callable[[Any], Any]) -> None:
    model, data = mlp(2, 4, 1), batches(3)
    optimizer = RegNewton(model.parameters(), damping=DAMPING, cg_tol=1e-13)
    model, optimizer = duplicate((model, optimizer))
    before, expected = weights(model), expected_move(model, data)
    for batch in data[:-1]:
        (loss_of(model, batch) / 3).backward()

    def closure() -> Tensor:
        loss = loss_of(model, data[-1]) / 3
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_close(weights(model) - before, expected, 1e-9)


def test_no_hook_is_left_by_an_optimizer_that_is_gone() -> None:
    model = mlp(2, 4, 1)
    for _ in range(3):
        RegNewton(model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


@pytest.mark.parametrize("clip", [1e-3, 0.1, 1e3])
def test_a_clipped_gradient_is_solved_with_and_the_ratio_is_sound(clip: float) -> None:
    model, data = mlp(2, 6, 1), batches(1)
    optimizer = RegNewton(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, data[0])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        return loss

    first = float(loss_of(model, data[0]).detach())
    for _ in range(10):
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        assert step.accepted
        assert step.gradient_norm <= clip * (1 + 1e-9)
    assert float(loss_of(model, data[0]).detach()) < first


@pytest.mark.parametrize(("factor", "number"), [(0.01, 1), (0.5, 0), (0.0, 0), (2.0, 0)])
def test_a_gradient_that_the_closure_shortens_a_lot_is_warned_of_once(
    factor: float, number: int
) -> None:
    model, data = mlp(2, 6, 1), batches(1)
    optimizer = RegNewton(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, data[0])
        loss.backward()
        for param in model.parameters():
            param.grad.mul_(factor)
        return loss

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.step(closure)
    assert sum("shortens the gradient" in str(w.message) for w in caught) == number


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize(("k", "clip"), [(1, 0.05), (3, None), (3, 0.05)])
def test_lightning_accumulates_and_clips(namespace: str, k: int, clip: float | None) -> None:
    pl = pytest.importorskip(namespace)
    data = batches(k)
    x, y = (torch.cat(part) for part in zip(*data, strict=True))

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(2, 4, 1)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return loss_of(self.net, batch)

        def configure_optimizers(self) -> RegNewton:
            return RegNewton(self.parameters(), damping=DAMPING, cg_tol=1e-13)

    module, reference = Module(), mlp(2, 4, 1)
    trainer = importlib.import_module(namespace).Trainer(
        max_steps=3,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accumulate_grad_batches=k,
        gradient_clip_val=clip,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=6))
    for _ in range(3):
        move = expected_move(reference, data, clip)
        with torch.no_grad():
            nn.utils.vector_to_parameters(weights(reference) + move, list(reference.parameters()))
    assert_close(weights(module.net), weights(reference), 1e-8)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_accumulation_on_purpose_is_not_taken_for_a_forgotten_zero_grad(
    k: int, to_none: bool
) -> None:
    model = mlp(2, 4, 1)
    optimizer = RegNewton(model.parameters())
    *others, last = batches(k)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            optimizer.zero_grad(to_none)
            for batch in others:
                loss_of(model, batch).backward()

            def closure() -> Tensor:
                loss = loss_of(model, last)
                loss.backward()
                return loss

            optimizer.step(closure)


def test_a_gradient_that_was_accumulated_without_end_is_not_warned_of() -> None:
    """Somebody has sent another batch backward since the last step, so that it may be meant."""
    model = mlp(2, 4, 1)
    optimizer = RegNewton(model.parameters())
    first, last = batches(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            loss_of(model, first).backward()

            def closure() -> Tensor:
                loss = loss_of(model, last)
                loss.backward()
                return loss

            optimizer.step(closure)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "parts"), [(12, 3), (200, 4)])
def test_several_backward_calls_in_a_closure_sum_up_their_rows(
    rows: int, parts: int, dtype: torch.dtype
) -> None:
    """With fewer rows than parameters, and with more: the step of all rows at once."""
    x, y = randn(rows, 2).to(dtype), randn(rows, 1, seed=1).to(dtype)
    moved = []
    for pieces in (1, parts):
        model = mlp(2, 8, 1).to(dtype)
        optimizer = RegNewton(model.parameters(), curvature="gauss_newton")

        def closure(
            model: nn.Module = model, optimizer: RegNewton = optimizer, pieces: int = pieces
        ) -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros((), dtype=dtype)
            for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
                loss = (model(a) - b).square().sum() / rows
                loss.backward()
                total += loss.detach()
            return total

        for _ in range(3):
            optimizer.step(closure)
        assert optimizer.last_step is not None
        assert optimizer.last_step.path.name == "FUNCTION_SPACE"
        moved.append(flatten(p.detach() for p in model.parameters()))
    assert_close(*moved, 1e-4 if dtype is torch.float32 else 1e-10)
