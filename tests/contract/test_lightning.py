"""What the callbacks and RegNewton rely on of Lightning, of both names that it has."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_callbacks import compat

MONITOR = "lightning_callbacks/monitor.py"
BATCH = "lightning_callbacks/batch.py"
ISOLATION = "lightning_callbacks/isolation.py"
TRAINER = "lightning_callbacks/trainer.py"
PROCESSES = "lightning_callbacks/processes.py"
MANUAL = "lightning_callbacks/manual.py"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}

HOOKS = {
    "setup": ["trainer", "pl_module", "stage"],
    "teardown": ["trainer", "pl_module", "stage"],
    "on_train_start": ["trainer", "pl_module"],
    "on_train_batch_start": ["trainer", "pl_module", "batch", "batch_idx"],
    "on_train_batch_end": ["trainer", "pl_module", "outputs", "batch", "batch_idx"],
    "on_before_optimizer_step": ["trainer", "pl_module", "optimizer"],
    "on_train_epoch_end": ["trainer", "pl_module"],
    "state_dict": [],
    "load_state_dict": ["state_dict"],
}


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def pl(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param.split(".")[0])
    return import_module(request.param)


class Recorder:
    """What Lightning did while it trained: the hooks in their order, and the closure it gave."""

    def __init__(self, pl: Any, folder: Path) -> None:
        seen = self.seen = []
        losses = self.losses = []

        class Hooks(pl.Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                seen.append("on_train_start")

            def on_train_batch_start(self, *args: Any) -> None:
                seen.append("on_train_batch_start")

            def on_train_batch_end(self, *args: Any) -> None:
                seen.append("on_train_batch_end")

        class Closing(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                losses.append(closure())
                return super().step()

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(2, 1)

            def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
                seen.append("training_step")
                return self.layer(batch).square().mean()

            def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
                seen.append("on_before_batch_transfer")
                return batch

            def configure_optimizers(self) -> Any:
                optimizer = Closing(self.parameters(), lr=0.1)
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 9)]

        self.module = Module()
        self.trainer = pl.Trainer(
            max_steps=1, accelerator="cpu", default_root_dir=folder, callbacks=[Hooks()],
            enable_checkpointing=False, **QUIET,
        )  # fmt: skip
        self.trainer.fit(self.module, DataLoader(torch.ones(4, 2), batch_size=4))


@pytest.fixture
def run(pl: Any, tmp_path: Path) -> Recorder:
    return Recorder(pl, tmp_path)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_hooks_have_their_arguments(pl: Any, hook: str) -> None:
    method = getattr(pl.Callback, hook, None)
    assert method is not None, f"Callback.{hook} is gone: the monitor is not called; {MONITOR}"
    names = list(inspect.signature(method).parameters)[1:]
    assert names == HOOKS[hook], f"Callback.{hook} takes {names}; {MONITOR}"


def test_a_callback_has_a_key_for_its_state(pl: Any) -> None:
    assert isinstance(pl.Callback.state_key, property), (
        f"Callback.state_key is no property: two monitors share their state; {MONITOR}"
    )


def test_one_callback_serves_both_names(pl: Any) -> None:
    assert issubclass(compat.Callback, pl.Callback), (
        "a trainer does not take the monitor for a callback of its own; "
        "lightning_callbacks/compat.py"
    )
    fabric = "lightning_fabric" if pl.__name__ == "pytorch_lightning" else "lightning.fabric"
    error = import_module(f"{fabric}.utilities.exceptions").MisconfigurationException
    assert issubclass(compat.MisconfigurationException, error), "lightning_callbacks/compat.py"


def test_the_order_of_the_hooks(run: Recorder) -> None:
    assert run.seen == [
        "on_train_start", "on_before_batch_transfer", "on_train_batch_start", "training_step",
        "on_train_batch_end",
    ], f"the monitor measures at other moments than it says; {MONITOR}"  # fmt: skip


def test_the_closure_returns_the_loss(run: Recorder) -> None:
    (loss,) = run.losses
    assert isinstance(loss, Tensor), (
        "Lightning's optimizer closure no longer returns the loss; torch_newton/closure/capture.py"
    )


def test_the_trainer_has_what_the_monitor_asks_for(run: Recorder) -> None:
    expected = {
        "world_size": 1, "is_global_zero": True, "global_step": 1, "accumulate_grad_batches": 1,
        "precision": "32-true", "global_rank": 0, "current_epoch": 1,
    }  # fmt: skip
    found = {name: getattr(run.trainer, name, None) for name in expected}
    assert found == expected, f"attributes of the trainer have changed; {MONITOR}, {BATCH}"
    assert [type(optimizer).__name__ for optimizer in run.trainer.optimizers] == ["Closing"], (
        f"trainer.optimizers are not the module's own: RegNewton is not known as such; {MONITOR}"
    )


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "32-true", "64-true"])
def test_the_precision_goes_by_its_name(pl: Any, precision: str, tmp_path: Path) -> None:
    trainer = pl.Trainer(
        precision=precision, accelerator="cpu", default_root_dir=tmp_path, **QUIET
    )  # fmt: skip
    assert str(trainer.precision) == precision, (
        "trainer.precision is spelled otherwise: the rounding of reduced precision is left out of "
        f"the error bounds; {BATCH}"
    )


def test_precision_plugin(run: Recorder) -> None:
    plugin = run.trainer.precision_plugin
    assert plugin.convert_input(torch.ones(1, dtype=torch.float32)).dtype is torch.float32, (
        f"trainer.precision_plugin.convert_input does not convert a batch; {BATCH}"
    )
    with plugin.train_step_context():  # the probe is evaluated in the precision of training
        pass


def test_strategy(run: Recorder) -> None:
    strategy = run.trainer.strategy
    one = torch.ones(1)
    assert strategy.root_device.type == "cpu", TRAINER
    assert torch.equal(strategy.reduce(one, reduce_op="mean"), one), (
        f"strategy.reduce(tensor, reduce_op='mean') is not a mean over processes; {TRAINER}"
    )
    assert strategy.broadcast(True) is True, (
        f"strategy.broadcast changes a bool: processes may disagree on whether to measure; "
        f"{MONITOR}"
    )
    assert strategy.broadcast({"a": [1.5, None]}) == {"a": [1.5, None]}, (
        f"strategy.broadcast changes objects: processes lose what the first one knows; {PROCESSES}"
    )
    gathered = strategy.all_gather(torch.ones(3)).view(-1, 3)
    assert torch.equal(gathered, torch.ones(1, 3)), (
        f"strategy.all_gather(tensor) is not a row for each process; {PROCESSES}"
    )
    assert torch.equal(strategy.batch_to_device(one, dataloader_idx=0), one), BATCH


def test_callback_metrics_can_be_added_to(run: Recorder) -> None:
    run.trainer.callback_metrics.update({"contract": torch.tensor(2.0)})
    assert run.trainer.callback_metrics["contract"] == 2, (
        "trainer.callback_metrics is a copy: EarlyStopping and ModelCheckpoint do not see what "
        f"the monitor measures; {MONITOR}"
    )


def test_loggers_can_be_exchanged(run: Recorder) -> None:
    before, silent = run.trainer.loggers, object()
    run.trainer.loggers = [silent]
    assert run.trainer.loggers == [silent], (
        f"trainer.loggers cannot be set: training_step logs while it is probed; {ISOLATION}"
    )
    run.trainer.loggers = before


def test_a_module_logs_by_methods_that_an_attribute_may_hide(run: Recorder) -> None:
    for name in ("log", "log_dict"):
        assert callable(getattr(type(run.module), name)), f"LightningModule.{name}; {ISOLATION}"
        vars(run.module)[name] = name
        assert getattr(run.module, name) == name, (
            f"LightningModule.{name} cannot be hidden: probing logs what it computes; {ISOLATION}"
        )
        del vars(run.module)[name]


def test_manual_optimization_can_be_told(run: Recorder) -> None:
    assert run.module.automatic_optimization is True, (
        "LightningModule.automatic_optimization: modules that step by themselves are not refused; "
        "lightning_callbacks/config.py"
    )


def test_optimizers_and_schedulers_stand_still_by_an_attribute(run: Recorder) -> None:
    wrapped = run.module.optimizers()
    assert wrapped.optimizer is run.trainer.optimizers[0], (
        "LightningModule.optimizers() does not wrap trainer.optimizers in their order; "
        f"{MANUAL}, lightning_callbacks/displacement.py"
    )
    schedulers = run.trainer.lr_scheduler_configs
    assert [type(config.scheduler).__name__ for config in schedulers] == ["StepLR"], (
        f"trainer.lr_scheduler_configs do not hold the schedulers; {MANUAL}"
    )
    for thing, name in (
        (wrapped, "step"),
        (wrapped.optimizer, "step"),
        (schedulers[0].scheduler, "step"),
        (run.module, "manual_backward"),
    ):
        before = dict(vars(thing))
        vars(thing)[name] = name
        assert getattr(thing, name) == name, f"{name} cannot be hidden by an attribute; {MANUAL}"
        vars(thing).clear()
        vars(thing).update(before)


def test_the_trainer_keeps_its_state_in_attributes(run: Recorder) -> None:
    before = run.trainer.should_stop
    run.trainer.should_stop = not before
    assert "should_stop" in vars(run.trainer), (
        f"trainer.should_stop is kept elsewhere: a probe that sets it ends training; {ISOLATION}"
    )
    run.trainer.should_stop = before


def test_the_progress_bar_asks_a_method_that_an_attribute_may_hide(pl: Any, tmp_path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_model_summary=False
    )  # fmt: skip
    bar, place = trainer.progress_bar_callback, "lightning_callbacks/progress.py"
    assert list(inspect.signature(bar.get_metrics).parameters) == ["trainer", "pl_module"], place
    bar.get_metrics = lambda trainer, pl_module: {"contract": 1.0}
    assert vars(bar).pop("get_metrics")(None, None) == {"contract": 1.0}, place
    assert callable(bar.get_metrics), f"the bar's own get_metrics does not come back; {place}"


def test_a_logger_takes_numbers_at_a_step(pl: Any) -> None:
    logger = import_module(f"{pl.__name__}.loggers").Logger
    names = list(inspect.signature(logger.log_metrics).parameters)
    assert names[1:] == ["metrics", "step"], "Logger.log_metrics; lightning_callbacks/logs.py"


def test_the_tensorboard_logger(pl: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = import_module(f"{pl.__name__}.loggers").TensorBoardLogger(tmp_path)
    assert "TensorBoardLogger" in {base.__name__ for base in type(logger).__mro__}, (
        "the TensorBoard logger is called otherwise: it gets no spectra; "
        "lightning_callbacks/tensorboard.py"
    )
    for method in ("add_histogram", "add_figure"):
        assert callable(getattr(logger.experiment, method)), "lightning_callbacks/tensorboard.py"


def test_utilities() -> None:
    for module, name in (
        ("lightning_utilities.core.apply_func", "apply_to_collection"),
        ("lightning_utilities.core.rank_zero", "rank_zero_warn"),
    ):
        assert callable(getattr(import_module(module), name)), f"{module}.{name} is gone"


def test_a_metric_reduces_its_states() -> None:
    from torchmetrics import Metric

    assert "dist_reduce_fx" in inspect.signature(Metric.add_state).parameters, (
        "torchmetrics' add_state has no dist_reduce_fx: matrices are not added up over processes; "
        "lightning_callbacks/metrics.py"
    )
