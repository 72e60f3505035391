"""CurvatureMonitor among other callbacks, loggers, checkpoints and processes."""

import os

import pytest
import torch

from lightning_callbacks import CurvatureMonitor
from tests.callbacks.lightning_helpers import (
    ADAM,
    KEYS,
    X,
    Y,
    batches,
    close,
    expected_numbers,
    memory_logger,
    monitoring,
    regression,
    trainer,
)
from tests.helpers import mlp, problem_of


def test_validation_and_sanity_checking_are_untouched(one_pl):
    module = regression(one_pl)
    memory = memory_logger(one_pl)
    module.validation_step = lambda batch, batch_idx: None
    run = trainer(one_pl, 2, monitoring(1), logger=memory, num_sanity_val_steps=1)
    run.fit(module, batches(), batches())
    assert sorted(memory.of("hessian/lambda_min")) == [0, 1, 2]
    rows = len(memory.rows)
    run.validate(module, batches(), verbose=False)
    assert len(memory.rows) == rows


def test_early_stopping_and_checkpoints_can_watch_it(pl, tmp_path):
    key = "hessian/lambda_min"
    stop = pl.callbacks.EarlyStopping(key, mode="max", patience=0, min_delta=10.0)
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, "best", key, mode="max")
    run = trainer(
        pl,
        20,
        stop,
        monitoring(3),
        checkpoint,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
    )
    run.fit(regression(pl), batches())
    assert run.global_step == 2  # one epoch to compare with, and one that is no better by 10
    assert float(checkpoint.best_model_score) == float(run.callback_metrics[key])
    assert (tmp_path / "best.ckpt").exists()


def test_a_resumed_run_goes_on_with_the_same_damping(one_pl, tmp_path):
    whole, first, second = monitoring(2), monitoring(2), monitoring(2)
    trainer(one_pl, 6, whole).fit(regression(one_pl), batches())
    half = trainer(one_pl, 3, first)
    half.fit(regression(one_pl), batches())
    half.save_checkpoint(tmp_path / "half.ckpt")
    memory = memory_logger(one_pl)
    run = trainer(one_pl, 6, second, logger=memory)
    run.fit(regression(one_pl), batches(), ckpt_path=tmp_path / "half.ckpt")
    assert sorted(memory.of("hessian/lambda_min")) == [4, 6]
    assert second.latest == whole.latest


def test_its_state_loads_from_weights_alone(tmp_path):
    monitor = monitoring()
    torch.save(monitor.state_dict(), tmp_path / "state")
    monitor.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert monitoring(log_key_prefix="a").state_key != monitor.state_key


def test_a_step_may_return_a_dict_or_skip_the_batch(one_pl):
    class Module(one_pl.LightningModule):
        def __init__(self, skip):
            super().__init__()
            self.net = mlp(2, 5, 1)
            self.skip = skip

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
            return None if self.skip else {"loss": loss, "more": 1}

        def configure_optimizers(self):
            return ADAM(self.parameters())

    monitor = monitoring(1)
    trainer(one_pl, 1, monitor).fit(Module(False), batches())
    assert set(monitor.latest) == KEYS
    with pytest.warns(UserWarning, match="skipped the probe batch"):
        trainer(one_pl, 1, monitor, max_epochs=2).fit(Module(True), batches())
    assert not monitor.latest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
@pytest.mark.parametrize("max_overhead", [None, 1e-6])
def test_several_processes_log_the_mean_once(one_pl, tmp_path, max_overhead):
    class Own(one_pl.LightningModule):
        """Each rank trains on ten samples of its own, and tells what its monitor knows."""

        def __init__(self):
            super().__init__()
            self.net = mlp(2, 5, 1)

        def train_dataloader(self):
            return batches(X + self.global_rank, Y)

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return ADAM(self.parameters())

        def on_train_end(self):
            found = {"latest": monitor.latest, "rows": memory.rows, "first": first[0]}
            torch.save(found, tmp_path / f"{self.global_rank}")

    first = []

    class First(one_pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            first.append(dict(monitor.latest))

    monitor = CurvatureMonitor(2, damping=0.1, max_overhead=max_overhead, effort="exact")
    memory = memory_logger(one_pl)
    run = trainer(
        one_pl, 4, First(), monitor, logger=memory,
        strategy="ddp_fork", devices=2, use_distributed_sampler=False,
    )  # fmt: skip
    run.fit(Own())
    ranks = [torch.load(tmp_path / f"{rank}") for rank in (0, 1)]
    exactly = {"rel": 0.0, "abs": 0.0, "nan_ok": True}
    assert ranks[0]["latest"] == pytest.approx(ranks[1]["latest"], **exactly)
    assert ranks[0]["first"] == pytest.approx(ranks[1]["first"], **exactly)
    measured = [step for step, row in ranks[0]["rows"] if "hessian/lambda_min" in row]
    assert measured == ([0, 2, 4] if max_overhead is None else [0])
    assert not any("hessian/lambda_min" in row for _, row in ranks[1]["rows"])
    expected = 0.0
    for rank in (0, 1):
        problem = problem_of(mlp(2, 5, 1), X + rank, lambda z: torch.nn.functional.mse_loss(z, Y))
        expected += expected_numbers(problem, 0.1)["hessian/lambda_min"] / 2
    close(ranks[0]["first"]["hessian/lambda_min"], expected)
