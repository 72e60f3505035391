"""Train a set-up, and note all that a monitor could have changed."""

from __future__ import annotations

import math
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch.utils.data import DataLoader

from lightning_callbacks import CurvatureMonitor
from tests.callbacks.setups.setup import STEPS, Setup, Training

QUIET = {
    "accelerator": "cpu",
    "max_epochs": -1,
    "max_steps": STEPS,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
PREFIX = "monitor-"
"""Of the monitor's keys, so that those of the user are known."""

Make = Callable[[], CurvatureMonitor]


class Rows(Logger):
    """Keeps what is logged."""

    name = version = "rows"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.rows.append(("hyperparameters", repr(args)))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        own = users(metrics)
        if own:
            self.rows.append((step, own))


@dataclass
class Record:
    """What a run left behind.

    Attributes:
        state: bit for bit: weights, gradients, optimizers, schedulers, what was logged, counters,
            and the state of the random number generators.
        raised: the exception that ended the training.
        said: the monitor's warnings.
        latest: the numbers measured last, without prefix.
    """

    state: dict[str, Any]
    raised: BaseException | None
    said: list[str]
    latest: dict[str, float] = field(default_factory=dict)

    @property
    def measured(self) -> str:
        """How much of what was last measured is a number."""
        known = [not math.isnan(value) for value in self.latest.values()]
        if not any(known):
            return "nothing"
        return "all" if all(known) else "in part"


def run(setup: Setup, make_monitor: Make | None = None) -> Record:
    """Train as `setup` says, under a monitor or under none."""
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    training = setup.make()
    logger, raised = Rows(), None
    monitor = None if make_monitor is None else make_monitor()
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        trainer = _trainer(training, logger, monitor, folder)
        try:
            if training.resumed_at is None:
                _fit(trainer, training)
            else:
                path = _interrupted(trainer, training)
                training, monitor = setup.make(), None if make_monitor is None else make_monitor()
                trainer = _trainer(training, logger, monitor, folder)
                _fit(trainer, training, ckpt_path=path, weights_only=False)
        except (Exception, SystemExit) as error:
            raised = error
        finally:
            torch.use_deterministic_algorithms(False)  # as a Trainer may leave it
    # Where others have trained, the metrics are what comes back from them.
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(PREFIX)}
    latest = {} if monitor is None else monitor.latest or metrics
    return Record(
        _state(trainer, training.module, logger),
        raised,
        [str(w.message) for w in caught if "CurvatureMonitor" in str(w.message)],
        {key.removeprefix(PREFIX): value for key, value in latest.items()},
    )


def _trainer(
    training: Training, logger: Logger, monitor: CurvatureMonitor | None, folder: str
) -> pl.Trainer:
    callbacks = [*training.callbacks, *([] if monitor is None else [monitor])]
    options = {**QUIET, "logger": logger, "default_root_dir": folder, **training.options}
    return pl.Trainer(callbacks=callbacks, **options)


def _fit(trainer: pl.Trainer, training: Training, **options: Any) -> None:
    loaders = [
        DataLoader(data, batch_size=None) if isinstance(data, list) else data
        for data in (training.data, training.validation)
    ]
    trainer.fit(training.module, *loaders, **options)


def _interrupted(trainer: pl.Trainer, training: Training) -> Path:
    """Stop early, and return the checkpoint from which to go on."""
    trainer.fit_loop.epoch_loop.max_steps = training.resumed_at
    _fit(trainer, training)
    path = Path(trainer.default_root_dir) / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def users(metrics: dict[str, Any]) -> dict[str, Any]:
    """Those of the user, without the monitor's."""
    return {key: value for key, value in metrics.items() if not key.startswith(PREFIX)}


def _state(trainer: pl.Trainer, module: pl.LightningModule, logger: Rows) -> dict[str, Any]:
    """All that must be the same with a monitor as without."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    things = {
        "weights and buffers": dict(module.state_dict()),
        "gradients": [
            None if torch.nn.parameter.is_lazy(p) else p.grad for p in module.parameters()
        ],
        "flags": [(part.training, type(part).__name__) for part in module.modules()],
        "what is trained": [p.requires_grad for p in module.parameters()],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [scheduler.state_dict() for scheduler in schedulers],
        "steps": (trainer.global_step, trainer.current_epoch, getattr(module, "calls", None)),
        "rows of the logger": logger.rows,
        "callback metrics": users(trainer.callback_metrics),
        "progress bar": users(trainer.progress_bar_metrics),
        "noted by the module": getattr(module, "notes", None),
        "PyTorch's random numbers": torch.get_rng_state(),
        "Python's": random.getstate(),
        "NumPy's": np.random.get_state()[1],  # noqa: NPY002
    }
    return {what: bits(thing) for what, thing in things.items()}


def bits(thing: Any) -> Any:
    """Nested containers of tensors as something that compares bit for bit."""
    if isinstance(thing, torch.Tensor):
        return _bits_of_tensor(thing)
    if isinstance(thing, np.ndarray):
        return thing.tobytes()
    if isinstance(thing, dict):
        return {key: bits(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [bits(value) for value in thing]
    # A function that a scheduler holds has an address, which differs from run to run.
    return type(thing).__name__ if callable(thing) else repr(thing)


def _bits_of_tensor(thing: torch.Tensor) -> Any:
    if torch.nn.parameter.is_lazy(thing):
        return "not initialized"
    dense = thing.detach().to_dense().contiguous().cpu()
    return str(dense.dtype), dense.shape, dense.flatten().view(torch.uint8).numpy().tobytes()
