"""RegNewton under Lightning's automatic optimization, in both of its namespaces."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torch_newton import ClosureError, RegNewton


def dataset(dtype=torch.float64):
    x = torch.linspace(-1, 1, 24, dtype=dtype)[:, None]
    return TensorDataset(x, torch.sin(3 * x))


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).to(
        dtype
    )


def regression(pl, configure, dtype=torch.float64):
    class Regression(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network(dtype)
            self.losses = []

        def training_step(self, batch, batch_idx):
            x, y = batch
            return torch.nn.functional.mse_loss(self.net(x), y)

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val_loss", torch.nn.functional.mse_loss(self.net(x), y))

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.losses.append(float(outputs["loss"]))

        def configure_optimizers(self):
            return configure(self)

    return Regression()


def trainer(pl, steps, **options):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": -1,
    }
    return pl.Trainer(max_steps=steps, **{**quiet, **options})


def batches(dtype=torch.float64, size=24):
    return DataLoader(dataset(dtype), batch_size=size)


def mean_square(net, dtype=torch.float64):
    x, y = dataset(dtype).tensors
    with torch.no_grad():
        return float(torch.nn.functional.mse_loss(net(x), y))


OPTIMIZERS = {
    "adam": lambda module: torch.optim.Adam(module.parameters(), lr=1e-2),
    "lbfgs": lambda module: torch.optim.LBFGS(module.parameters()),
    "newton": lambda module: RegNewton(module.parameters()),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_line_changes_the_optimizer(pl, name):
    module = regression(pl, OPTIMIZERS[name])
    before = mean_square(module.net)
    trainer(pl, 20, precision="64-true").fit(module, batches())
    after = mean_square(module.net)
    assert after < (0.9 if name == "adam" else 0.05) * before


def plain_loop(steps, schedule=None, size=24):
    net = network()
    optimizer = RegNewton(net.parameters())
    scheduler = schedule(optimizer) if schedule else None
    taken = 0
    while taken < steps:
        for x, y in batches(size=size):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(net(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
            taken += 1
            if scheduler:
                scheduler.step()
            if taken == steps:
                break
    return net


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


@pytest.mark.parametrize("size", [24, 12])
def test_the_same_steps_as_in_a_plain_loop(pl, size):
    module = regression(pl, OPTIMIZERS["newton"])
    trainer(pl, 6).fit(module, batches(size=size))
    expected = plain_loop(6, size=size)
    for mine, theirs in zip(module.net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)
        assert mine.grad.any()


def test_a_learning_rate_scheduler_counts(one_pl):
    def configure(module):
        optimizer = RegNewton(module.parameters())
        return [optimizer], [{"scheduler": halving(optimizer), "interval": "step"}]

    module = regression(one_pl, configure)
    trainer(one_pl, 6).fit(module, batches())
    expected = plain_loop(6, halving)
    unscheduled = plain_loop(6)
    for mine, theirs, other in zip(
        module.net.parameters(), expected.parameters(), unscheduled.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        assert not torch.equal(mine, other)


def test_a_resumed_run_continues_as_if_it_had_not_stopped(one_pl, tmp_path):
    whole = regression(one_pl, OPTIMIZERS["newton"])
    trainer(one_pl, 6).fit(whole, batches())
    first = regression(one_pl, OPTIMIZERS["newton"])
    half = trainer(one_pl, 3)
    half.fit(first, batches())
    half.save_checkpoint(tmp_path / "half.ckpt")
    second = regression(one_pl, OPTIMIZERS["newton"])
    trainer(one_pl, 6).fit(second, batches(), ckpt_path=tmp_path / "half.ckpt")
    for mine, theirs in zip(second.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_validation_in_inference_mode_between_the_steps(pl):
    module = regression(pl, OPTIMIZERS["newton"])
    run = trainer(pl, 4, inference_mode=True, num_sanity_val_steps=1)
    run.fit(module, batches(), batches())
    assert float(run.callback_metrics["val_loss"]) < module.losses[0]


def test_bf16_mixed_precision(pl):
    module = regression(pl, OPTIMIZERS["newton"], torch.float32)
    before = mean_square(module.net, torch.float32)
    trainer(pl, 10, precision="bf16-mixed").fit(module, batches(torch.float32))
    assert mean_square(module.net, torch.float32) < 0.5 * before


def test_gradient_scaling_is_refused_with_the_way_out(one_pl):
    # Lightning falls back on bf16-mixed on the CPU, so its scaling plugin is called directly.
    scaling = importlib.import_module("pytorch_lightning.plugins").MixedPrecision(
        "16-mixed", "cpu", torch.amp.GradScaler("cpu")
    )
    module = regression(one_pl, OPTIMIZERS["newton"], torch.float32)
    run = trainer(one_pl, 2, plugins=[scaling])
    with pytest.raises(ClosureError, match="bf16-mixed"):
        run.fit(module, batches(torch.float32))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_example_trains_with_any_optimizer(name, tmp_path, monkeypatch):
    pytest.importorskip("statsmodels")
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    example = importlib.import_module("lightning_co2")
    _, csv = example.train(importlib.import_module("co2_record").load_co2(), name, 3, tmp_path)
    log = pandas.read_csv(csv)
    assert list(log.dropna(subset="hessian/lambda_min")["step"]) == [0, 1, 2, 3]
    losses = log["loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0]
    example.draw(log, name, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
