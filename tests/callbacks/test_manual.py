"""Manual optimization: for each optimizer the loss that is sent backward with its parameters."""

import math
import os

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.callbacks.lightning_helpers import ALL, batches, bits, memory_logger, monitoring, trainer
from tests.helpers import mlp, randn
from torch_newton import RegNewton

X, Y = randn(8, 2, seed=1), randn(8, 3, seed=2)


def adam(params):
    return torch.optim.Adam(params, 1e-2, betas=(0.5, 0.9))


def gan(pl, step, optimizer=adam, schedulers=False):
    """A generator of 3 numbers from 2, and a critic of these; `step` is the training step."""

    class Gan(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = mlp(2, 4, 3), mlp(3, 4, 1)
            self.began = []

        def on_train_batch_start(self, batch, batch_idx):
            self.began.append([p.detach().clone() for p in self.parameters()])

        def losses(self, batch):
            z, real = batch
            return self.of_generator(z), self.on_real(real), self.on_fake(z)

        def of_generator(self, z):
            return nn.functional.softplus(-self.critic(self.generator(z))).mean()

        def on_real(self, real):
            return nn.functional.softplus(-self.critic(real)).mean()

        def on_fake(self, z):
            return nn.functional.softplus(self.critic(self.generator(z).detach())).mean()

        def training_step(self, batch, batch_idx):
            step(self, batch, batch_idx)

        def configure_optimizers(self):
            pair = [optimizer(net.parameters()) for net in (self.generator, self.critic)]
            if not schedulers:
                return pair
            return pair, [torch.optim.lr_scheduler.StepLR(o, 1, 0.9) for o in pair]

    return Gan()


def usual(self, batch, batch_idx):
    first, second = self.optimizers()
    of_generator = self.of_generator(batch[0])
    first.zero_grad()
    self.manual_backward(of_generator)
    first.step()
    second.zero_grad()
    self.manual_backward(self.on_real(batch[1]) + self.on_fake(batch[0]))
    second.step()
    self.log("generator", of_generator, on_step=True, on_epoch=True)


def one_by_one(self, batch, batch_idx):
    """The critic's losses are sent backward apart, by tensors' own method, and it comes first."""
    first, second = self.optimizers()
    second.zero_grad()
    self.on_real(batch[1]).backward()
    self.on_fake(batch[0]).backward()
    second.step()
    first.zero_grad()
    self.of_generator(batch[0]).backward()  # leaves gradients at the critic, which it zeroes
    first.step()


def toggled(self, batch, batch_idx):
    first, second = self.optimizers()
    for optimizer, index in ((first, 0), (second, 1)):
        self.toggle_optimizer(optimizer)
        losses = self.losses(batch)
        loss = losses[0] if index == 0 else losses[1] + losses[2]
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        optimizer.step()
        optimizer.zero_grad()
        self.untoggle_optimizer(optimizer)
    for scheduler in self.lr_schedulers() or []:
        scheduler.step()


def by_closures(self, batch, batch_idx):
    first, second = self.optimizers()

    def closure_of(optimizer, loss):
        def closure():
            optimizer.zero_grad()
            value = loss()
            self.manual_backward(value)
            return value

        return closure

    first.step(closure=closure_of(first, lambda: self.of_generator(batch[0])))
    second.step(closure=closure_of(second, lambda: sum(self.losses(batch)[1:])))


def clipped(self, batch, batch_idx):
    """Wasserstein's critic keeps its weights small, in a way that autograd sees."""
    usual(self, batch, batch_idx)
    with torch.no_grad():
        for param in self.critic.parameters():
            param.clamp_(-0.05, 0.05)


def accumulated(self, batch, batch_idx):
    first, second = self.optimizers()
    self.manual_backward(self.of_generator(batch[0]), inputs=list(self.generator.parameters()))
    self.manual_backward(sum(self.losses(batch)[1:]))
    if batch_idx % 2 == 1:
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()


STEPS = {
    "usual": usual, "one by one": one_by_one, "toggled": toggled, "closures": by_closures,
    "clipped": clipped, "accumulated": accumulated,
}  # fmt: skip


def fit(pl, module, *callbacks, steps=6, **options):
    torch.manual_seed(0)
    run = trainer(pl, steps, *callbacks, **{"max_epochs": 2 * steps, **options})
    twice = TensorDataset(torch.cat([X, X]), torch.cat([Y, Y]))  # two batches, both the same
    run.fit(module, DataLoader(twice, batch_size=len(X)))
    return run


def dense(module, index, clamp=None):
    """The Hessian of an optimizer's loss in its parameters, where the module stands."""
    net = (module.generator, module.critic)[index]
    named = dict(net.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def loss(vector):
        pieces = zip(named, vector.split(sizes), named.values(), strict=True)
        own = {name: piece.view_as(p) for name, piece, p in pieces}
        if index == 0:
            fake = torch.func.functional_call(net, own, (X,))
            return nn.functional.softplus(-module.critic(fake)).mean()
        real, fake = (
            torch.func.functional_call(net, own, (z,)) for z in (Y, module.generator(X).detach())
        )
        return (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()

    theta = torch.cat([p.detach().reshape(-1) for p in named.values()])
    return torch.func.hessian(loss)(theta), torch.func.grad(loss)(theta)


@pytest.mark.parametrize("name", STEPS)
def test_each_optimizer_has_its_own_loss(one_pl, name):
    module = gan(one_pl, STEPS[name])
    monitor = monitoring(1, "gan/", damping=0.1)
    fit(one_pl, module, monitor)
    for index in (0, 1):
        H, g = dense(module, index)
        values = torch.linalg.eigvalsh(H)
        latest = {
            key: monitor.latest[f"gan/{index}/{key}"]
            for key in ("hessian/lambda_min", "hessian/lambda_max", "sharpness/gradient")
        }
        assert latest["hessian/lambda_min"] == pytest.approx(float(values[0]), abs=1e-9)
        assert latest["hessian/lambda_max"] == pytest.approx(float(values[-1]), abs=1e-9)
        assert latest["sharpness/gradient"] == pytest.approx(float(g @ H @ g / (g @ g)), abs=1e-9)
        assert f"gan/{index}/ntk/lambda_max" in monitor.latest
    assert set(monitor.spectra) >= {"0/hessian", "1/hessian"}
    assert {key.split("/")[1] for key in monitor.latest} == {"0", "1"}


def all_of(module, run):
    return bits(
        [
            module.state_dict(),
            [optimizer.state_dict() for optimizer in run.optimizers],
            [config.scheduler.state_dict() for config in run.lr_scheduler_configs],
            [p.grad for p in module.parameters()],
            torch.get_rng_state(),
        ]
    )


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("kind", ["adam", "newton"])
def test_training_is_the_same(one_pl, name, kind):
    if kind == "newton" and name != "closures":
        pytest.skip("RegNewton takes closures")
    optimizer = adam if kind == "adam" else RegNewton
    plain, watched = (gan(one_pl, STEPS[name], optimizer, schedulers=True) for _ in range(2))
    logs = [memory_logger(one_pl) for _ in range(2)]
    expected = all_of(plain, fit(one_pl, plain, logger=logs[0]))
    monitor = monitoring(2, quantities=ALL)
    run = fit(one_pl, watched, monitor, logger=logs[1])
    assert all_of(watched, run) == expected
    assert monitor.latest["1/hessian/lambda_max"] > 0
    of_monitor = {"0/hessian/lambda_min", "1/hessian/lambda_min"}  # each in a row of its own
    own = [(step, row) for step, row in logs[1].rows if not of_monitor & set(row)]
    assert bits(own) == bits(logs[0].rows)
    methods = [vars(o).get("step") for o in run.optimizers]
    assert all(step is None or "manual" not in step.__module__ for step in methods)


def test_the_last_step_of_each_is_known(one_pl):
    module = gan(one_pl, usual)
    monitor = monitoring(1, quantities=("step_sharpness", "critical"))
    fit(one_pl, module, monitor)
    before = module.began[-1]
    count = len(list(module.generator.parameters()))
    for index, (net, part) in enumerate(
        ((module.generator, before[:count]), (module.critic, before[count:]))
    ):
        d = torch.cat([
            (p.detach() - q).reshape(-1) for p, q in zip(net.parameters(), part, strict=True)
        ])  # fmt: skip
        H, _ = dense(module, index)
        expected = float(d @ H @ d / (d @ d))
        assert monitor.latest[f"{index}/sharpness/step"] == pytest.approx(expected, abs=1e-9)
        assert math.isfinite(monitor.latest[f"{index}/critical/step"])


def test_one_optimizer_has_no_index(one_pl):
    class Plain(one_pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.net = mlp(2, 4, 3)

        def training_step(self, batch):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(nn.functional.mse_loss(self.net(batch[0]), batch[1]))
            optimizer.step()

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    monitor = monitoring(1)
    fit(one_pl, Plain(), monitor)
    assert monitor.latest["sharpness/limit"] == pytest.approx(20.0)
    assert not any(key[0].isdigit() for key in monitor.latest)


def test_in_limited_time_the_optimizers_take_turns(one_pl):
    module, plain = gan(one_pl, usual), gan(one_pl, usual)
    monitor = monitoring(2, max_overhead=1e6, max_pause=1e6)
    run = fit(one_pl, module, monitor, steps=80)
    assert all_of(module, run) == all_of(plain, fit(one_pl, plain, steps=80))
    assert {key[0] for key in monitor.history.columns if key[0].isdigit()} == {"0", "1"}


def test_an_optimizer_that_is_left_out_is_not_measured(one_pl):
    def critic_only(self, batch, batch_idx):
        optimizer = self.optimizers()[1]
        optimizer.zero_grad()
        self.manual_backward(sum(self.losses(batch)[1:]))
        optimizer.step()

    monitor = monitoring(1)
    with pytest.warns(UserWarning, match="skipped the probe batch"):
        fit(one_pl, gan(one_pl, critic_only), monitor)
    assert {key[0] for key in monitor.latest} == {"1"}


def test_a_step_that_fails_is_a_warning(one_pl):
    def failing(self, batch, batch_idx):
        if "log" in vars(self):  # put there while nothing is to be logged
            raise LookupError("not now")
        usual(self, batch, batch_idx)

    module, plain = gan(one_pl, failing), gan(one_pl, usual)
    monitor = monitoring(1)
    with pytest.warns(UserWarning, match="LookupError: not now"):
        run = fit(one_pl, module, monitor)
    assert math.isnan(monitor.latest["0/hessian/lambda_min"])
    assert all_of(module, run) == all_of(plain, fit(one_pl, plain))


def test_the_history_of_each_is_drawn(one_pl):
    pytest.importorskip("matplotlib")
    monitor = monitoring(1, progress_bar=("0/hessian/lambda_min",))
    fit(one_pl, gan(one_pl, usual), monitor)
    figure = monitor.plot(optimizer=1)
    assert figure.axes[0].get_title() == "definiteness margin"


# Kinds of training


class Pairs(torch.utils.data.Dataset):
    """Items as tokenizers give them."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"input_ids": torch.arange(4) + i % 3, "labels": torch.tensor(i % 2)}


class Output(dict):
    """What models of the Hugging Face libraries return: a dictionary with attributes."""

    def __getattr__(self, name):
        return self[name]


def words(pl, manual=False):
    class Words(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual
            torch.manual_seed(0)
            self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 2)

        def forward(self, input_ids, labels):
            logits = self.head(self.table(input_ids).mean(1))
            return Output(loss=nn.functional.cross_entropy(logits, labels), logits=logits)

        def training_step(self, batch, batch_idx):
            out = self(**batch)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(out.loss)
                optimizer.step()
            return None if manual else out

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

    return Words()


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"precision": "bf16-mixed"}, {"precision": "bf16-true"}, {"accumulate": 2}]
)
def test_dictionaries_precision_and_accumulation(pl, manual, options):
    options = dict(options)
    accumulate = options.pop("accumulate", 1)
    if not manual:
        options["accumulate_grad_batches"] = accumulate
    states = []
    for callbacks in ((), (monitoring(2, quantities=ALL),)):
        module = words(pl, manual)
        options = {"max_epochs": 9, **options}
        trainer(pl, 4, *callbacks, **options).fit(module, DataLoader(Pairs(), batch_size=4))
        states.append(bits([p.detach().float() for p in module.parameters()]))
    assert states[0] == states[1]
    latest = callbacks[0].latest
    assert latest["residual/largest"] <= 1
    assert latest["hessian/lambda_max"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_a_gan_on_several_processes(one_pl, tmp_path):
    states = []
    for name, callbacks in (("plain", ()), ("watched", (monitoring(2),))):
        module = gan(one_pl, toggled)

        class Save(one_pl.Callback):
            def on_train_end(self, trainer, module, name=name, callbacks=callbacks):
                found = {"state": module.state_dict(), "latest": [c.latest for c in callbacks]}
                torch.save(found, tmp_path / f"{name}{trainer.global_rank}")

        run = trainer(
            one_pl, 8, *callbacks, Save(), max_epochs=8, devices=2, use_distributed_sampler=False,
            strategy="ddp_fork_find_unused_parameters_true",
        )  # fmt: skip
        run.fit(module, batches(X, Y))
        states.append([torch.load(tmp_path / f"{name}{rank}") for rank in (0, 1)])
    assert bits(states[0][0]["state"]) == bits(states[1][0]["state"])
    assert bits(states[1][0]["latest"]) == bits(states[1][1]["latest"])
    assert {"0/hessian/lambda_max", "1/hessian/lambda_max"} <= set(states[1][0]["latest"][0])
