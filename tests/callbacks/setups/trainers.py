"""Options of the Trainer."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.callbacks.setups.build import Module, batches, mlp, squared
from tests.callbacks.setups.setup import Setup, Training


def under(net: nn.Module | None = None, **options: Any) -> Training:
    module = Module(net or mlp(nn.Dropout(0.1)), squared)
    return Training(module, batches(), validation=batches(2), options=options)


def in_double(**options: Any) -> Training:
    training = under(**options)
    return Training(
        training.module, [(x.double(), y.double()) for x, y in batches()], None, options
    )


def resumed(at: int) -> Training:
    training = under()
    training.resumed_at = at
    return training


SETUPS = [
    Setup("accumulated gradients", lambda: under(accumulate_grad_batches=2), quick=True),
    Setup("clipped by norm", lambda: under(gradient_clip_val=0.1)),
    Setup("clipped by value", lambda: under(
        gradient_clip_val=0.1, gradient_clip_algorithm="value")),
    Setup("bf16-mixed", lambda: under(precision="bf16-mixed"), quick=True),
    Setup("bf16-true", lambda: under(precision="bf16-true"), nan=None),
    Setup("16-mixed", lambda: under(precision="16-mixed"), nan=None),
    Setup("16-true", lambda: under(precision="16-true"), nan=None),
    Setup("64-true", lambda: under(precision="64-true")),
    Setup("validation in between", lambda: under(val_check_interval=1), quick=True),
    Setup("no inference mode", lambda: under(inference_mode=False, check_val_every_n_epoch=2)),
    Setup("detected anomalies", lambda: under(detect_anomaly=True)),
    Setup("deterministic", lambda: under(deterministic=True)),
    Setup("a single step", lambda: under(fast_dev_run=True), nan=None),
    Setup("overfitted batches", lambda: under(overfit_batches=1)),
    Setup("limited epochs", lambda: under(max_epochs=2, max_steps=-1)),
    Setup("limited batches", lambda: under(limit_train_batches=2, limit_val_batches=1)),
    Setup("limited time", lambda: under(max_time={"hours": 1})),
    Setup("logged now and then", lambda: under(log_every_n_steps=4)),
    Setup("no logger", lambda: under(logger=False)),
    Setup("profiled", lambda: under(profiler="simple")),
    Setup("barebones", lambda: under(
        barebones=True, logger=False, log_every_n_steps=0, num_sanity_val_steps=0), nan=None),
    Setup("progress bar and summary", lambda: under(
        enable_progress_bar=True, enable_model_summary=True)),
    Setup("resumed", lambda: resumed(3), quick=True),
    Setup("resumed at a measurement", lambda: resumed(4)),
]  # fmt: skip
