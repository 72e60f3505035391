"""CurvatureMonitor: right numbers, no trace, and its manners as a callback."""

import importlib
import math
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchmetrics
from conftest import generator, mlp, problem_of, randn
from torch.utils.data import DataLoader, TensorDataset

from lightning_callbacks import CurvatureMonitor
from lightning_callbacks.kernels import choose, kernel_numbers, rows_of_loss
from lightning_callbacks.measure import hessian_spectrum
from lightning_callbacks.quiet import remember, undisturbed
from torch_newton import RegNewton, gradient, hessian, width

NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]
KEYS = {
    *(f"hessian/{name}" for name in (
        "lambda_min", "lambda_min_error", "lambda_max", "negative_fraction",
        "damped_lambda_min", "positive_definite",
    )),
    *(f"{kernel}/{name}" for kernel in ("ntk", "nntk") for name in (
        "lambda_min", "lambda_max", "condition_number",
    )),
}  # fmt: skip


@pytest.fixture(params=NAMESPACES)
def pl(request):
    return importlib.import_module(request.param)


@pytest.fixture
def one_pl():
    return importlib.import_module(NAMESPACES[0])


def memory_logger(pl):
    class Memory(pl.loggers.logger.Logger):
        name = version = "memory"

        def __init__(self):
            super().__init__()
            self.rows = []

        def log_hyperparams(self, *args, **kwargs):
            pass

        def log_metrics(self, metrics, step=None):
            self.rows.append((step, dict(metrics)))

        def of(self, key):
            return {step: row[key] for step, row in self.rows if key in row}

    return Memory()


def trainer(pl, steps, *callbacks, **options):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": -1,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(max_steps=steps, callbacks=list(callbacks), **{**quiet, **options})


ADAM = lambda params: torch.optim.Adam(params, lr=1e-2)  # noqa: E731


def regression(pl, optimizer=ADAM, net=None, loss=torch.nn.functional.mse_loss):
    class Regression(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp(2, 5, 1) if net is None else net

        def training_step(self, batch):
            x, y = batch
            value = loss(self.net(x), y)
            self.log("loss", value)
            return value

        def configure_optimizers(self):
            return optimizer(self.net.parameters())

    return Regression()


X, Y = randn(10, 2, seed=1), randn(10, 1, seed=2)


def batches(x=X, y=Y, size=None, shuffle=False):
    dataset = TensorDataset(x, y)
    return DataLoader(dataset, batch_size=size or len(x), shuffle=shuffle)


def close(actual, expected, tol=1e-8):
    assert actual == pytest.approx(expected, rel=tol, abs=tol)


# Numbers


def symmetric_root(Q):
    values, vectors = torch.linalg.eigh(Q)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def expected_numbers(problem, damping, true_hessian=False):
    """All of the logged numbers by dense linear algebra and torch.func alone."""
    H = problem.hessian()
    J = problem.jacobian()
    A = symmetric_root(problem.output_hessian()) @ J
    values = torch.linalg.eigvalsh(H)
    metric = H if true_hessian else A.T @ A
    shifted = metric + damping * torch.eye(len(H), dtype=H.dtype)
    ntk = torch.linalg.eigvalsh(J @ J.T)
    nntk = torch.linalg.eigvalsh(A @ torch.linalg.solve(shifted, A.T))
    numbers = {
        "hessian/lambda_min": values[0],
        "hessian/lambda_max": values[-1],
        "hessian/damped_lambda_min": values[0] + damping,
        "hessian/negative_fraction": (values < -1e-12).double().mean(),
        "hessian/positive_definite": values[0] + damping > 0,
    }
    for name, kernel in (("ntk", ntk), ("nntk", nntk)):
        numbers[f"{name}/lambda_min"] = kernel[0]
        numbers[f"{name}/lambda_max"] = kernel[-1]
        numbers[f"{name}/condition_number"] = kernel.abs().max() / kernel.abs().min()
    return {key: float(value) for key, value in numbers.items()}


@pytest.mark.parametrize("nntk", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("exact_up_to", [400, 0])
@pytest.mark.parametrize("damping", [0.7, 0.01])
def test_numbers_are_those_of_dense_matrices(one_pl, nntk, exact_up_to, damping):
    module = regression(one_pl, net=mlp(2, 5, 1))
    monitor = CurvatureMonitor(damping=damping, nntk=nntk, exact_up_to=exact_up_to)
    trainer(one_pl, 1, monitor).fit(module, batches())
    problem = problem_of(mlp(2, 5, 1), X, lambda z: torch.nn.functional.mse_loss(z, Y))
    expected = expected_numbers(problem, damping, nntk == "hessian")
    assert set(monitor.latest) == KEYS
    if exact_up_to == 0:
        # Four random vectors estimate the share, which the Lanczos process does not compute.
        share = expected.pop("hessian/negative_fraction")
        assert monitor.latest["hessian/negative_fraction"] == pytest.approx(share, abs=0.35)
    for key, value in expected.items():
        close(monitor.latest[key], value)
    assert monitor.latest["hessian/lambda_min_error"] < (1e-8 if exact_up_to else 1e-4)


def test_numbers_of_a_classifier_leave_out_what_its_loss_does_not_see(one_pl):
    labels = torch.tensor([0, 1, 2, 1, 0, 2])
    problem = problem_of(
        mlp(2, 4, 3), X[:6], lambda z: torch.nn.functional.cross_entropy(z, labels)
    )
    module = regression(one_pl, net=mlp(2, 4, 3), loss=torch.nn.functional.cross_entropy)
    monitor = CurvatureMonitor(damping=0.1)
    trainer(one_pl, 1, monitor).fit(module, batches(X[:6], labels))
    A = symmetric_root(problem.output_hessian()) @ problem.jacobian()
    kappa = torch.linalg.eigvalsh(A @ A.T)
    seen = kappa[6:]  # softmax ignores a shift of each sample's logits
    close(monitor.latest["nntk/lambda_max"], float(seen[-1] / (seen[-1] + 0.1)))
    close(monitor.latest["nntk/lambda_min"], float(seen[0] / (seen[0] + 0.1)))
    ntk = torch.linalg.eigvalsh(problem.jacobian() @ problem.jacobian().T)
    close(monitor.latest["ntk/lambda_max"], float(ntk[-1]))


def test_the_damping_of_optimizers_that_have_none_is_the_width_rule(one_pl):
    module = regression(one_pl)
    params = list(module.net.parameters())
    loss = torch.nn.functional.mse_loss(module.net(X), Y)
    g = gradient(loss, params)
    s = float((hessian(loss, params) @ g).norm() / g.norm())
    memory = memory_logger(one_pl)
    trainer(one_pl, 4, CurvatureMonitor(2), logger=memory).fit(module, batches())
    low, shifted = memory.of("hessian/lambda_min"), memory.of("hessian/damped_lambda_min")
    assert sorted(low) == [0, 2, 4]
    for step in low:
        close(shifted[step] - low[step], s * width(params) ** -0.25)


def test_the_damping_of_newton_is_its_own(one_pl):
    memory = memory_logger(one_pl)
    module = regression(one_pl, RegNewton)
    monitor = CurvatureMonitor(1)
    run = trainer(one_pl, 3, monitor, logger=memory)
    run.fit(module, batches())
    step = run.optimizers[0].last_step
    assert monitor.latest["newton/damping"] == step.damping
    assert monitor.latest["newton/cg_iterations"] == step.cg_iterations
    assert monitor.latest["newton/ratio"] == step.ratio
    assert monitor.latest["newton/loss_after"] == step.loss_after
    shift = monitor.latest["hessian/damped_lambda_min"] - monitor.latest["hessian/lambda_min"]
    close(shift, step.damping)
    assert sorted(memory.of("newton/damping")) == [1, 2, 3]
    assert sorted(memory.of("hessian/lambda_min")) == [0, 1, 2, 3]


def test_a_fixed_damping_of_newton_counts_before_its_first_step(one_pl):
    module = regression(one_pl, lambda params: RegNewton(params, damping=0.25))
    memory = memory_logger(one_pl)
    trainer(one_pl, 1, CurvatureMonitor(1), logger=memory).fit(module, batches())
    low, shifted = memory.of("hessian/lambda_min"), memory.of("hessian/damped_lambda_min")
    close(shifted[0] - low[0], 0.25)


def test_definiteness_is_claimed_only_where_proved():
    class Matrix:
        def __init__(self, values):
            self.loss_params = [torch.zeros(len(values), dtype=torch.float64, requires_grad=True)]
            self.values = torch.tensor(values, dtype=torch.float64)

        def spectrum(self, exact_up_to):
            (theta,) = self.loss_params
            H = hessian((self.values * theta**2).sum() / 2, [theta])
            return hessian_spectrum(H, 2.3e-16, exact_up_to=exact_up_to, products=50)

    for exact_up_to in (0, 100):
        spectrum = Matrix([-1.0, 0.5, 2.0]).spectrum(exact_up_to)
        assert spectrum.numbers(1.1)["hessian/positive_definite"] == 1
        assert spectrum.numbers(0.9)["hessian/positive_definite"] == 0
        assert math.isnan(spectrum.numbers(1.0)["hessian/positive_definite"])
        assert spectrum.numbers(1.0)["hessian/negative_fraction"] == pytest.approx(1 / 3, abs=0.35)


@pytest.mark.parametrize("seed", range(5))
def test_a_kernel_of_fewer_rows_lies_within_that_of_all(seed):
    net = mlp(2, 6, 1, seed=seed)
    x, y = randn(12, 2, seed=seed + 5), randn(12, 1, seed=seed + 6)
    params = list(net.parameters())
    numbers = {}
    for rows in (5, 12):
        part, unrecognised = rows_of_loss(
            torch.nn.functional.mse_loss(net(x), y), params, max_rows=rows
        )
        assert len(part.J) == rows
        assert part.total == 12
        assert not unrecognised
        numbers[rows] = kernel_numbers(part, 0.3, 2.3e-16)
    for name in ("ntk", "nntk"):
        assert numbers[5][f"{name}/lambda_min"] >= numbers[12][f"{name}/lambda_min"]
        assert numbers[5][f"{name}/lambda_max"] <= numbers[12][f"{name}/lambda_max"]


def test_more_rows_than_parameters_are_a_singular_kernel():
    net = torch.nn.Linear(2, 1, dtype=torch.float64)
    loss = torch.nn.functional.mse_loss(net(X), Y)
    rows, _ = rows_of_loss(loss, list(net.parameters()), 256)
    numbers = kernel_numbers(rows, 0.1, 2.3e-16)
    assert numbers["ntk/lambda_min"] == 0
    assert numbers["ntk/condition_number"] == math.inf


def test_rows_are_chosen_by_samples():
    assert choose([(4, 3)], 100) == list(range(12))
    assert choose([(4, 3)], 6) == [0, 1, 2, 6, 7, 8]
    assert len(choose([(2, 1000)], 10)) == 10
    assert choose([()], 1) == [0]


def test_a_penalty_on_the_weights_is_no_output(one_pl):
    def penalised(z, y):
        penalty = sum(p.square().sum() for p in module.parameters())
        return torch.nn.functional.mse_loss(z, y) + 0.01 * penalty

    module = regression(one_pl, loss=penalised)
    plain = CurvatureMonitor(damping=0.1)
    with_penalty = CurvatureMonitor(damping=0.1)
    trainer(one_pl, 1, with_penalty).fit(module, batches())
    trainer(one_pl, 1, plain).fit(regression(one_pl), batches())
    close(with_penalty.latest["ntk/lambda_max"], plain.latest["ntk/lambda_max"])
    close(with_penalty.latest["hessian/lambda_max"], plain.latest["hessian/lambda_max"], 0.5)
    assert with_penalty.latest["hessian/lambda_max"] > plain.latest["hessian/lambda_max"] + 0.01


def test_rows_of_a_physics_informed_loss_are_its_residuals(one_pl):
    x = torch.linspace(0, 1, 7, dtype=torch.float64)[:, None]

    def residual(net, x):
        x = x.requires_grad_()
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return slope + u

    class Decay(one_pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp(1, 9, 1)

        def training_step(self, batch, batch_idx):
            return residual(self.net, batch).square().mean()

        def configure_optimizers(self):
            return ADAM(self.parameters())

    module = Decay()
    params = list(module.net.parameters())
    r = residual(module.net, x.clone())
    J = torch.stack(
        [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(
                entry, params, retain_graph=True, materialize_grads=True, allow_unused=True
            )])
            for entry in r.squeeze()
        ]
    )  # fmt: skip
    monitor = CurvatureMonitor(damping=0.1)
    trainer(one_pl, 1, monitor).fit(module, DataLoader(x, batch_size=7))
    close(monitor.latest["ntk/lambda_max"], float(torch.linalg.eigvalsh(J @ J.T)[-1]))


def test_outputs_can_be_given(one_pl):
    def quartic(z, y):
        return (z - y).abs().pow(4).mean()

    module = regression(one_pl, loss=quartic)
    J = problem_of(module.net, X, quartic).jacobian()
    kernel = torch.linalg.eigvalsh(J @ J.T)
    monitor = CurvatureMonitor(damping=0.5, outputs=lambda module, batch: module.net(batch[0]))
    trainer(one_pl, 1, monitor).fit(module, batches())
    close(monitor.latest["ntk/lambda_max"], float(kernel[-1]))
    close(monitor.latest["nntk/lambda_max"], float(kernel[-1] / (kernel[-1] + 10 * 0.5)))


def test_a_loss_without_recognised_outputs_warns_once_and_names_the_way_out(one_pl):
    module = regression(one_pl, loss=lambda z, y: (z - y).abs().pow(4).mean())
    monitor = CurvatureMonitor(1)
    with pytest.warns(UserWarning, match="outputs=callable") as caught:
        trainer(one_pl, 3, monitor).fit(module, batches())
    assert sum("outputs=callable" in str(warning.message) for warning in caught) == 1
    assert not any(key.startswith(("ntk", "nntk")) for key in monitor.latest)
    assert "hessian/lambda_min" in monitor.latest


def test_a_loss_that_is_not_finite_gives_nan_and_training_goes_on(one_pl):
    module = regression(one_pl, loss=lambda z, y: (z - y).square().mean() * math.nan)
    monitor = CurvatureMonitor(1)
    run = trainer(one_pl, 2, monitor)
    run.fit(module, batches())
    assert run.global_step == 2
    assert set(monitor.latest) == KEYS
    for key in KEYS - {"hessian/lambda_min_error"}:
        assert math.isnan(monitor.latest[key])
    assert math.isinf(monitor.latest["hessian/lambda_min_error"])


def test_reduced_precision_widens_the_bounds(one_pl):
    net = mlp(2, 5, 1).float()
    monitor = CurvatureMonitor(damping=0.1)
    run = trainer(one_pl, 1, monitor, precision="bf16-mixed")
    run.fit(regression(one_pl, net=net), batches(X.float(), Y.float()))
    problem = problem_of(mlp(2, 5, 1), X, lambda z: torch.nn.functional.mse_loss(z, Y))
    exact = expected_numbers(problem, 0.1)
    error = abs(monitor.latest["hessian/lambda_min"] - exact["hessian/lambda_min"])
    assert error <= monitor.latest["hessian/lambda_min_error"]


# No trace


class Moody(torch.nn.Module):
    """A network with everything in it that an evaluation could change."""

    def __init__(self):
        super().__init__()
        self.first, self.last = mlp(2, 6), mlp(6, 1)
        self.norm = torch.nn.BatchNorm1d(6, dtype=torch.float64)
        self.drop = torch.nn.Dropout(0.2)
        self.frozen = torch.nn.Parameter(torch.ones((), dtype=torch.float64), False)

    def forward(self, x):
        self.frozen.data.mul_(1.001)
        return self.last(self.drop(torch.tanh(self.norm(self.first(x))))) * self.frozen


def moody(pl, optimizer):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Moody()
            self.error = torchmetrics.MeanSquaredError()
            self.curve = torchmetrics.CatMetric()
            self.seen = []
            self.count = {"calls": 0}
            self.own = generator(3)

        def training_step(self, batch, batch_idx):
            x, y = batch
            self.count["calls"] += 1
            self.seen.append(batch_idx)
            jitter = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
            noise = torch.randn(x.shape, generator=self.own, dtype=x.dtype)
            z = self.net(x + 0.01 * jitter * noise)
            loss = torch.nn.functional.mse_loss(z, y)
            self.error(z, y)
            self.curve.update(loss.detach())
            self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
            self.log_dict({"error": self.error}, on_step=True, on_epoch=True)
            if self.logger is not None:
                self.logger.experiment.add_scalar("direct", loss.item())
            return loss

        def on_train_epoch_end(self):
            self.log("curve", self.curve.compute().mean())

        def configure_optimizers(self):
            return optimizer(self.net.parameters())

    return Module()


class Experiment:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, name, value):
        self.scalars.append((name, value))


def moody_run(pl, optimizer, *callbacks):
    pl.seed_everything(1, verbose=False)
    memory = memory_logger(pl)
    memory.experiment = Experiment()
    module = moody(pl, optimizer)
    x, y = randn(24, 2, seed=8), randn(24, 1, seed=9)
    run = trainer(pl, 9, *callbacks, logger=memory)
    run.fit(module, batches(x, y, size=8, shuffle=True))
    state = {
        "tensors": module.state_dict(),
        "grads": [p.grad for p in module.parameters()],
        "optimizer": run.optimizers[0].state_dict(),
        "seen": module.seen,
        "count": module.count,
        "own": module.own.get_state(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1],  # noqa: NPY002
        "direct": memory.experiment.scalars,
    }
    logged = [
        (step, {key: float(value) for key, value in row.items()})
        for step, row in memory.rows
        if "hessian/lambda_min" not in row
    ]
    return state, logged


def bits(thing):
    """Nested containers of tensors as something that compares bit for bit."""
    if isinstance(thing, torch.Tensor):
        return thing.detach().numpy().tobytes()
    if isinstance(thing, np.ndarray):
        return thing.tobytes()
    if isinstance(thing, dict):
        return {key: bits(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [bits(value) for value in thing]
    return repr(thing)


OPTIMIZERS = {
    "adam": ADAM,
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "lbfgs": lambda params: torch.optim.LBFGS(params, max_iter=3),
    "newton": RegNewton,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_bit_for_bit_what_it_is_without(pl, name):
    monitor = CurvatureMonitor(2, nntk="hessian")
    state, logged = moody_run(pl, OPTIMIZERS[name])
    watched, also_logged = moody_run(pl, OPTIMIZERS[name], monitor)
    assert set(monitor.latest) >= KEYS
    assert len(state["direct"]) >= 9
    for key, value in state.items():
        assert bits(watched[key]) == bits(value), key
    assert bits(also_logged) == bits(logged)


def test_every_measurement_draws_the_same_dropout_mask(one_pl):
    memory = memory_logger(one_pl)
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), mlp(2, 5, 1))
    module = regression(one_pl, lambda params: torch.optim.SGD(params, lr=0.0), net)
    trainer(one_pl, 3, CurvatureMonitor(1), logger=memory).fit(module, batches())
    values = memory.of("hessian/lambda_max")
    assert len(values) == 4
    assert len(set(values.values())) == 1


def test_all_is_restored_where_the_evaluation_fails():
    module, untouched = mlp(2, 5, 1), mlp(2, 5, 1)
    trainer = SimpleNamespace(loggers=[memory := object()])
    torch.rand(3), random.random()
    before = bits([torch.get_rng_state(), random.getstate(), np.random.get_state()[1]])  # noqa: NPY002

    def disturb():
        with undisturbed(trainer, module, 0):
            assert trainer.loggers != [memory]
            torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
            module[0].weight.data.add_(1)
            module[0].weight.grad = torch.ones_like(module[0].weight)
            module.eval()
            module[2].requires_grad_(False)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        disturb()
    after = bits([torch.get_rng_state(), random.getstate(), np.random.get_state()[1]])  # noqa: NPY002
    assert after == before
    assert trainer.loggers == [memory]
    assert bits(module.state_dict()) == bits(untouched.state_dict())
    assert module[0].weight.grad is None
    assert module.training
    assert module[2].training
    assert all(param.requires_grad for param in module.parameters())


def test_remembering_reaches_into_containers():
    module = torch.nn.Module()
    module.inner = {"list": [1, 2], "set": {3}, "pair": (torch.ones(2), [4])}
    module.wide = torch.ones(1).expand(3)
    undo = remember(module)
    module.inner["list"].append(5)
    module.inner["set"].add(6)
    module.inner["pair"][0].add_(1)
    module.inner["pair"][1].clear()
    module.inner["new"] = 7
    module.other = 8
    undo()
    assert module.inner["list"] == [1, 2]
    assert module.inner["set"] == {3}
    assert module.inner["pair"][0].tolist() == [1, 1]
    assert module.inner["pair"][1] == [4]
    assert set(module.inner) == {"list", "set", "pair"}
    assert not hasattr(module, "other")


# Manners


def test_it_serves_both_namespaces_and_every_logger(pl):
    one, two = memory_logger(pl), memory_logger(pl)
    run = trainer(pl, 5, CurvatureMonitor(2, log_key_prefix="probe/"), logger=[one, two])
    run.fit(regression(pl), batches())
    for memory in (one, two):
        assert sorted(memory.of("probe/hessian/lambda_min")) == [0, 2, 4]
    assert {"probe/" + key for key in KEYS} <= set(run.callback_metrics)


def test_accumulated_batches_are_one_step(one_pl):
    memory = memory_logger(one_pl)
    run = trainer(one_pl, 3, CurvatureMonitor(1), logger=memory, accumulate_grad_batches=2)
    run.fit(regression(one_pl), batches(size=5))
    assert [step for step, row in memory.rows if "hessian/lambda_min" in row] == [0, 1, 2, 3]


def test_the_probe_is_the_first_batch_or_the_one_given(one_pl):
    first, given = CurvatureMonitor(1, damping=1.0), CurvatureMonitor(1, "given/", damping=1.0)
    given.probe = [X[5:], Y[5:]]
    memory = memory_logger(one_pl)
    still = lambda params: torch.optim.SGD(params, lr=0.0)  # noqa: E731
    run = trainer(one_pl, 4, first, given, logger=memory)
    run.fit(regression(one_pl, still), batches(size=5))
    for key, part in (
        ("hessian/lambda_max", slice(0, 5)),
        ("given/hessian/lambda_max", slice(5, 10)),
    ):
        problem = problem_of(
            mlp(2, 5, 1), X[part], lambda z, part=part: torch.nn.functional.mse_loss(z, Y[part])
        )
        for value in memory.of(key).values():
            close(value, expected_numbers(problem, 1.0)["hessian/lambda_max"])


def test_early_stopping_and_checkpoints_can_watch_it(pl, tmp_path):
    key = "hessian/lambda_min"
    stop = pl.callbacks.EarlyStopping(key, mode="max", patience=0, min_delta=10.0)
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, "best", key, mode="max")
    run = trainer(
        pl,
        20,
        stop,
        CurvatureMonitor(3),
        checkpoint,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
    )
    run.fit(regression(pl), batches())
    assert run.global_step == 2  # one epoch to compare with, and one that is no better by 10
    assert float(checkpoint.best_model_score) == float(run.callback_metrics[key])
    assert (tmp_path / "best.ckpt").exists()


def test_a_resumed_run_goes_on_with_the_same_damping(one_pl, tmp_path):
    whole, first, second = CurvatureMonitor(2), CurvatureMonitor(2), CurvatureMonitor(2)
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
    monitor = CurvatureMonitor()
    torch.save(monitor.state_dict(), tmp_path / "state")
    monitor.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert CurvatureMonitor(log_key_prefix="a").state_key != monitor.state_key


class Manual:
    def __new__(cls, pl):
        class Module(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False
                self.net = mlp(2, 5, 1)

            def loss_of(self, batch):
                return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

            def training_step(self, batch, batch_idx):
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(self.loss_of(batch))
                optimizer.step()

            def configure_optimizers(self):
                return ADAM(self.parameters())

        return Module()


def test_manual_optimization_needs_a_loss(pl):
    exception = importlib.import_module(
        pl.__name__.replace("pytorch_lightning", "lightning_fabric").replace(".pytorch", ".fabric")
        + ".utilities.exceptions"
    ).MisconfigurationException
    with pytest.raises(exception, match="manual optimization"):
        trainer(pl, 2, CurvatureMonitor()).fit(Manual(pl), batches())
    memory = memory_logger(pl)
    monitor = CurvatureMonitor(1, loss=lambda module, batch: module.loss_of(batch))
    trainer(pl, 2, monitor, logger=memory).fit(Manual(pl), batches())
    assert sorted(memory.of("hessian/lambda_min")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"every_n_steps": 0}, "every_n_steps >= 1"),
        ({"every_n_steps": 2.0}, "integer every_n_steps"),
        ({"max_rows": 0}, "max_rows"),
        ({"exact_up_to": -1}, "exact_up_to"),
        ({"max_products": 1}, "max_products"),
        ({"log_key_prefix": None}, "string log_key_prefix"),
        ({"damping": -1.0}, "damping"),
        ({"damping": math.nan}, "damping"),
        ({"damping": "auto"}, "damping"),
        ({"nntk": "fisher"}, "gauss_newton, hessian"),
        ({"loss": 3}, "loss"),
        ({"outputs": "net"}, "outputs"),
    ],
)
def test_wrong_arguments_are_explained(one_pl, arguments, reason):
    exceptions = importlib.import_module("lightning_fabric.utilities.exceptions")
    with pytest.raises(exceptions.MisconfigurationException, match=reason):
        trainer(one_pl, 1, CurvatureMonitor(**arguments)).fit(regression(one_pl), batches())


def test_a_step_that_draws_its_own_batches_needs_a_loss(one_pl):
    class Module(one_pl.LightningModule):
        def training_step(self, dataloader_iter):
            raise NotImplementedError

        def configure_optimizers(self):
            return None

    exceptions = importlib.import_module("lightning_fabric.utilities.exceptions")
    with pytest.raises(exceptions.MisconfigurationException, match="dataloader_iter"):
        CurvatureMonitor().setup(trainer(one_pl, 1), Module(), "fit")


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

    monitor = CurvatureMonitor(1)
    trainer(one_pl, 1, monitor).fit(Module(False), batches())
    assert set(monitor.latest) == KEYS
    with pytest.warns(UserWarning, match="skipped the probe batch"):
        trainer(one_pl, 1, monitor, max_epochs=2).fit(Module(True), batches())
    assert not monitor.latest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_several_processes_log_the_mean(one_pl, tmp_path):
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
            torch.save(monitor.latest, tmp_path / f"{self.global_rank}")

    monitor = CurvatureMonitor(5, damping=0.1)
    run = trainer(one_pl, 1, monitor, strategy="ddp_fork", devices=2, use_distributed_sampler=False)
    run.fit(Own())
    ranks = [torch.load(tmp_path / f"{rank}") for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    expected = 0.0
    for rank in (0, 1):
        problem = problem_of(mlp(2, 5, 1), X + rank, lambda z: torch.nn.functional.mse_loss(z, Y))
        expected += expected_numbers(problem, 0.1)["hessian/lambda_min"] / 2
    close(ranks[0]["hessian/lambda_min"], expected)
