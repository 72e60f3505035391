"""CurvatureMonitor: right numbers, no trace, and its manners as a callback."""

import copy
import importlib
import math
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchmetrics
from torch.utils.data import DataLoader, TensorDataset

from lightning_callbacks import CurvatureMonitor
from lightning_callbacks.budget import Budget
from lightning_callbacks.isolation import undisturbed
from lightning_callbacks.quantities.hessian import hessian_numbers
from lightning_callbacks.remember import remember
from lightning_callbacks.spectrum import hessian_spectrum
from tests.helpers import generator, mlp, problem_of, randn
from torch_newton import Adaptive, RegNewton, gradient, hessian, width

NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]
KEYS = {
    *(f"hessian/{name}" for name in (
        "lambda_min", "lambda_min_error", "lambda_min_lowest", "lambda_max", "lambda_max_error",
        "negative_fraction", "negative_fraction_low", "negative_fraction_high",
        "damped_lambda_min", "positive_definite",
    )),
    *(f"{kernel}/{name}" for kernel in ("ntk", "nntk") for name in (
        "lambda_min", "lambda_min_error", "lambda_max", "lambda_max_error", "condition_number",
    )),
}  # fmt: skip
ALL = ("hessian", "trace", "ntk", "nntk", "nntk_hessian")


def monitoring(*arguments, **options):
    """A monitor that measures at every step it should, whatever that costs."""
    return CurvatureMonitor(*arguments, **{"max_overhead": None, **options})


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


def expected_numbers(problem, damping, scaling=None):
    """All of the logged numbers by dense linear algebra and torch.func alone.

    The damping is that times D, where D^{-1/2} is given as `scaling`.
    """
    H = problem.hessian()
    D = torch.ones(len(H), dtype=H.dtype) if scaling is None else scaling**-2
    J = problem.jacobian()
    A = symmetric_root(problem.output_hessian()) @ J
    values = torch.linalg.eigvalsh(H)

    def newton(metric):
        return A @ torch.linalg.solve(metric + damping * torch.diag(D), A.T)

    kernels = {"ntk": J @ J.T, "nntk": newton(A.T @ A), "nntk_hessian": newton(H)}
    numbers = {
        "hessian/lambda_min": values[0],
        "hessian/lambda_max": values[-1],
        "hessian/damped_lambda_min": torch.linalg.eigvalsh(H + damping * torch.diag(D))[0],
        "hessian/negative_fraction": (values < -1e-12).double().mean(),
        "hessian/positive_definite": torch.linalg.eigvalsh(H + damping * torch.diag(D))[0] > 0,
        "hessian/trace": values.sum(),
        "nntk_hessian/difference": torch.linalg.matrix_norm(
            kernels["nntk_hessian"] - kernels["nntk"], ord=2
        ),
    }
    for name, kernel in kernels.items():
        eigenvalues = torch.linalg.eigvalsh(kernel)
        numbers[f"{name}/lambda_min"] = eigenvalues[0]
        numbers[f"{name}/lambda_max"] = eigenvalues[-1]
        numbers[f"{name}/condition_number"] = eigenvalues.abs().max() / eigenvalues.abs().min()
    return {key: float(value) for key, value in numbers.items()}


@pytest.mark.parametrize("exact_up_to", [400, 0])
@pytest.mark.parametrize("damping", [0.7, 0.01])
def test_numbers_are_those_of_dense_matrices(one_pl, exact_up_to, damping):
    module = regression(one_pl, net=mlp(2, 5, 1))
    monitor = monitoring(damping=damping, quantities=ALL, exact_up_to=exact_up_to)
    trainer(one_pl, 1, monitor).fit(module, batches())
    problem = problem_of(mlp(2, 5, 1), X, lambda z: torch.nn.functional.mse_loss(z, Y))
    expected = expected_numbers(problem, damping)
    latest = monitor.latest
    assert set(latest) >= KEYS | set(expected)
    if exact_up_to == 0:
        # Four random vectors estimate the share, which the Lanczos process does not compute.
        share = expected.pop("hessian/negative_fraction")
        low, high = (latest[f"hessian/negative_fraction_{end}"] for end in ("low", "high"))
        assert low <= share <= high
        assert high - low > 0.1
    for key, value in expected.items():
        close(latest[key], value)
    assert latest["hessian/lambda_min_error"] < (1e-8 if exact_up_to else 1e-4)
    assert latest["hessian/lambda_min_lowest"] <= latest["hessian/lambda_min"]


def test_only_what_is_asked_for_is_measured(one_pl):
    for quantity in ALL:
        monitor = monitoring(damping=0.1, quantities=quantity)
        trainer(one_pl, 1, monitor).fit(regression(one_pl), batches())
        group = "hessian" if quantity == "trace" else quantity
        assert {key.split("/")[0] for key in monitor.latest} == {group}
        assert all("trace" in key for key in monitor.latest) == (quantity == "trace")


def test_numbers_of_a_classifier_leave_out_what_its_loss_does_not_see(one_pl):
    labels = torch.tensor([0, 1, 2, 1, 0, 2])
    problem = problem_of(
        mlp(2, 4, 3), X[:6], lambda z: torch.nn.functional.cross_entropy(z, labels)
    )
    module = regression(one_pl, net=mlp(2, 4, 3), loss=torch.nn.functional.cross_entropy)
    monitor = monitoring(damping=0.1)
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
    trainer(one_pl, 4, monitoring(2), logger=memory).fit(module, batches())
    low, shifted = memory.of("hessian/lambda_min"), memory.of("hessian/damped_lambda_min")
    assert sorted(low) == [0, 2, 4]
    for step in low:
        close(shifted[step] - low[step], Adaptive().start * s * width(params) ** -0.25)


def test_the_damping_of_newton_is_its_own(one_pl):
    memory = memory_logger(one_pl)
    module = regression(one_pl, RegNewton)
    monitor = monitoring(1)
    run = trainer(one_pl, 3, monitor, logger=memory)
    run.fit(module, batches())
    step = run.optimizers[0].last_step
    assert monitor.latest["newton/damping"] == step.damping
    assert monitor.latest["newton/cg_iterations"] == step.cg_iterations
    assert monitor.latest["newton/ratio"] == step.ratio
    assert monitor.latest["newton/loss_after"] == step.loss_after
    shift = monitor.latest["hessian/damped_lambda_min"] - monitor.latest["hessian/lambda_min"]
    assert step.arm.scaled or shift == pytest.approx(step.damping)
    assert sorted(memory.of("newton/damping")) == [0, 1, 2]
    assert sorted(memory.of("hessian/lambda_min")) == [0, 1, 2]


def test_a_fixed_damping_of_newton_counts_before_its_first_step(one_pl):
    module = regression(one_pl, lambda params: RegNewton(params, damping=0.25))
    memory = memory_logger(one_pl)
    trainer(one_pl, 1, monitoring(1), logger=memory).fit(module, batches())
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
        assert hessian_numbers(spectrum, 1.1)["hessian/positive_definite"] == 1
        assert hessian_numbers(spectrum, 0.9)["hessian/positive_definite"] == 0
        assert math.isnan(hessian_numbers(spectrum, 1.0)["hessian/positive_definite"])
        assert hessian_numbers(spectrum, 1.0)["hessian/negative_fraction"] == pytest.approx(
            1 / 3, abs=0.35
        )


def test_more_rows_than_parameters_are_a_singular_kernel(one_pl):
    net = torch.nn.Linear(2, 1, dtype=torch.float64)
    monitor = monitoring(damping=0.1)
    trainer(one_pl, 1, monitor).fit(regression(one_pl, net=net), batches())
    assert monitor.latest["ntk/lambda_min"] == 0
    assert monitor.latest["ntk/condition_number"] == math.inf


def test_kernels_beyond_the_row_budget_are_matrix_free(one_pl):
    kernels = {}
    for rows in (100, 3):
        kernels[rows] = monitoring(damping=0.1, quantities=("ntk", "nntk"), max_rows=rows)
        trainer(one_pl, 1, kernels[rows]).fit(regression(one_pl), batches())
    for key in ("ntk/lambda_min", "ntk/lambda_max", "nntk/lambda_min", "nntk/lambda_max"):
        close(kernels[3].latest[key], kernels[100].latest[key])
    assert set(kernels[100].spectra) == {"ntk", "nntk"}
    assert not kernels[3].spectra


def test_a_penalty_on_the_weights_is_no_output(one_pl):
    def penalised(z, y):
        penalty = sum(p.square().sum() for p in module.parameters())
        return torch.nn.functional.mse_loss(z, y) + 0.01 * penalty

    module = regression(one_pl, loss=penalised)
    plain = monitoring(damping=0.1)
    with_penalty = monitoring(damping=0.1)
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
    monitor = monitoring(damping=0.1)
    trainer(one_pl, 1, monitor).fit(module, DataLoader(x, batch_size=7))
    close(monitor.latest["ntk/lambda_max"], float(torch.linalg.eigvalsh(J @ J.T)[-1]))


def test_outputs_can_be_given(one_pl):
    def quartic(z, y):
        return (z - y).abs().pow(4).mean()

    module = regression(one_pl, loss=quartic)
    J = problem_of(module.net, X, quartic).jacobian()
    kernel = torch.linalg.eigvalsh(J @ J.T)
    monitor = monitoring(damping=0.5, outputs=lambda module, batch: module.net(batch[0]))
    trainer(one_pl, 1, monitor).fit(module, batches())
    close(monitor.latest["ntk/lambda_max"], float(kernel[-1]))
    close(monitor.latest["nntk/lambda_max"], float(kernel[-1] / (kernel[-1] + 10 * 0.5)))


def test_a_loss_without_recognised_outputs_warns_once_and_names_the_way_out(one_pl):
    module = regression(one_pl, loss=lambda z, y: (z - y).abs().pow(4).mean())
    monitor = monitoring(1)
    with pytest.warns(UserWarning, match="outputs=callable") as caught:
        trainer(one_pl, 3, monitor).fit(module, batches())
    assert sum("outputs=callable" in str(warning.message) for warning in caught) == 1
    assert not any(key.startswith(("ntk", "nntk")) for key in monitor.latest)
    assert "hessian/lambda_min" in monitor.latest


def test_a_loss_that_is_not_finite_gives_nan_and_training_goes_on(one_pl):
    module = regression(one_pl, loss=lambda z, y: (z - y).square().mean() * math.nan)
    monitor = monitoring(1)
    run = trainer(one_pl, 2, monitor)
    run.fit(module, batches())
    assert run.global_step == 2
    assert set(monitor.latest) == KEYS
    bounds = {key for key in KEYS if key.endswith(("_error", "_lowest"))}
    interval = {"hessian/negative_fraction_low", "hessian/negative_fraction_high"}
    for key in KEYS - bounds - interval:
        assert math.isnan(monitor.latest[key])
    assert all(math.isinf(monitor.latest[key]) for key in bounds)
    assert [monitor.latest[key] for key in sorted(interval)] == [1, 0]


def test_reduced_precision_widens_the_bounds(one_pl):
    net = mlp(2, 5, 1).float()
    monitor = monitoring(damping=0.1)
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
    monitor = monitoring(2, quantities=ALL)
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
    trainer(one_pl, 3, monitoring(1), logger=memory).fit(module, batches())
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
    run = trainer(pl, 5, monitoring(2, log_key_prefix="probe/"), logger=[one, two])
    run.fit(regression(pl), batches())
    for memory in (one, two):
        assert sorted(memory.of("probe/hessian/lambda_min")) == [0, 2, 4]
    assert {"probe/" + key for key in KEYS} <= set(run.callback_metrics)


def test_accumulated_batches_are_one_step(one_pl):
    memory = memory_logger(one_pl)
    run = trainer(one_pl, 3, monitoring(1), logger=memory, accumulate_grad_batches=2)
    run.fit(regression(one_pl), batches(size=5))
    assert [step for step, row in memory.rows if "hessian/lambda_min" in row] == [0, 1, 2, 3]


def test_the_probe_is_the_first_batch_or_the_one_given(one_pl):
    first, given = (
        monitoring(1, damping=1.0),
        monitoring(1, "given/", damping=1.0, probe=[X[5:], Y[5:]]),
    )
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


def dense_lambda_max(net, x, y):
    problem = problem_of(net, x, lambda z: torch.nn.functional.mse_loss(z, y))
    return expected_numbers(problem, 1.0)["hessian/lambda_max"]


def test_the_probe_may_be_a_loader_or_a_callable(one_pl):
    still = lambda params: torch.optim.SGD(params, lr=0.0)  # noqa: E731
    calls = []

    def second_half(module):
        calls.append(module.net)
        return [X[5:], Y[5:]]

    loader = monitoring(1, damping=1.0, probe=batches(size=5))
    drawn = monitoring(1, "drawn/", damping=1.0, probe=second_half)
    module = regression(one_pl, still)
    trainer(one_pl, 2, loader, drawn).fit(module, batches(size=3))
    close(loader.latest["hessian/lambda_max"], dense_lambda_max(mlp(2, 5, 1), X, Y))
    expected = dense_lambda_max(mlp(2, 5, 1), X[5:], Y[5:])
    close(drawn.latest["drawn/hessian/lambda_max"], expected)
    assert calls == [module.net] * 3


def test_the_interval_may_be_the_epoch(one_pl):
    memory = memory_logger(one_pl)
    monitor = monitoring(1, logging_interval="epoch")
    trainer(one_pl, 12, monitor, logger=memory).fit(regression(one_pl), batches(size=3))
    assert sorted(memory.of("hessian/lambda_min")) == [0, 4, 8, 12]
    newton = monitoring(1, logging_interval="epoch")
    trainer(one_pl, 8, newton).fit(regression(one_pl, RegNewton), batches(size=3))
    assert newton.measured_at == 8


# Cost


def test_a_budget_allows_the_first_and_then_what_keeps_to_the_share(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("lightning_callbacks.budget.time.perf_counter", lambda: clock.now)
    budget = Budget(0.1)
    assert budget.allows()
    with budget.measuring():
        clock.now += 2.0
    assert budget.spent == 2.0
    assert budget.training == 0.0
    clock.now += 39.0
    assert not budget.allows()
    clock.now += 1.0
    assert budget.allows()
    with budget.measuring():
        clock.now += 2.0
    assert budget.spent <= 0.1 * budget.training
    assert not budget.allows()
    unlimited = Budget(None)
    with unlimited.measuring():
        clock.now += 100.0
    assert unlimited.allows()


@pytest.mark.parametrize("optimizer", ["adam", "newton"])
def test_measurements_that_are_too_dear_are_left_out_and_training_is_the_same(
    one_pl, optimizer, monkeypatch
):
    memory = memory_logger(one_pl)
    monitor = CurvatureMonitor(1, max_overhead=1e-6)
    module = regression(one_pl, OPTIMIZERS[optimizer])
    trainer(one_pl, 6, monitor, logger=memory).fit(module, batches())
    assert sorted(memory.of("hessian/lambda_min")) == [0]
    plain = regression(one_pl, OPTIMIZERS[optimizer])
    trainer(one_pl, 6).fit(plain, batches())
    assert bits(module.state_dict()) == bits(plain.state_dict())


# With RegNewton


@pytest.mark.parametrize("exact_up_to", [400, 0])
def test_the_step_of_newton_is_what_is_measured(one_pl, exact_up_to):
    """H, rows and damping are those of the step, on its own batch, at the point where it began."""
    memory = memory_logger(one_pl)
    nets, scalings = [], []

    class Recorder(one_pl.Callback):
        def on_train_start(self, trainer, module):
            trainer.optimizers[0].register_observer(lambda seen: scalings.append(seen.scaling))

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            nets.append((copy.deepcopy(module.net), batch))

    monitor = monitoring(1, quantities=ALL, exact_up_to=exact_up_to)
    module = regression(one_pl, RegNewton)
    trainer(one_pl, 25, Recorder(), monitor, logger=memory).fit(module, batches(size=5))
    assert any(scaling is None for scaling in scalings)
    assert any(scaling is not None for scaling in scalings)
    for step, ((net, (x, y)), scaling) in enumerate(zip(nets, scalings, strict=True)):
        problem = problem_of(net, x, lambda z, y=y: torch.nn.functional.mse_loss(z, y))
        damping = memory.of("newton/damping")[step]
        expected = expected_numbers(problem, damping, scaling)
        for key in (
            "hessian/lambda_min", "hessian/damped_lambda_min", "ntk/lambda_max", "nntk/lambda_min",
            "nntk/lambda_max",
        ):  # fmt: skip
            close(memory.of(key)[step], expected[key], 1e-6)
        definite = memory.of("hessian/positive_definite")[step]
        assert math.isnan(definite) or definite == expected["hessian/positive_definite"]
        size = max(1.0, expected["nntk_hessian/lambda_max"], -expected["nntk_hessian/lambda_min"])
        for key in ("nntk_hessian/lambda_max", "nntk_hessian/difference"):
            close(memory.of(key)[step] / size, expected[key] / size, 1e-4)


@pytest.mark.parametrize("exact_up_to", [400, 0])
def test_a_probe_of_its_own_is_measured_with_the_last_steps_damping(one_pl, exact_up_to):
    """Also where that was lambda D, with the D of that step."""
    nets, scalings = [], []

    class Recorder(one_pl.Callback):
        def on_train_start(self, trainer, module):
            trainer.optimizers[0].register_observer(lambda seen: scalings.append(seen.scaling))

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            nets.append(copy.deepcopy(module.net))

    memory = memory_logger(one_pl)
    module = regression(one_pl, lambda params: RegNewton(params, scaling="jacobian"))
    monitor = monitoring(1, probe=(X, Y), quantities=ALL, exact_up_to=exact_up_to)
    trainer(one_pl, 3, Recorder(), monitor, logger=memory).fit(module, batches(size=5))
    assert all(scaling is not None for scaling in scalings)
    for step, (net, scaling) in enumerate(zip(nets, scalings, strict=True), start=1):
        problem = problem_of(net, X, lambda z: torch.nn.functional.mse_loss(z, Y))
        expected = expected_numbers(problem, memory.of("newton/damping")[step], scaling)
        for key in ("hessian/damped_lambda_min", "nntk/lambda_min", "nntk/lambda_max"):
            close(memory.of(key)[step], expected[key], 1e-6)


def test_watching_newton_evaluates_nothing_again(one_pl):
    calls = []

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp(2, 5, 1)

        def forward(self, x):
            calls.append(len(x))
            return self.inner(x)

    counts = []
    for callbacks in ([], [monitoring(1)]):
        calls.clear()
        module = regression(one_pl, RegNewton, net=Counted())
        trainer(one_pl, 3, *callbacks).fit(module, batches())
        counts.append(len(calls))
        assert not module.trainer.optimizers[0]._observers
    assert counts[0] == counts[1]


def test_the_gauss_newton_optimizer_is_watched_with_the_true_hessian(one_pl):
    memory = memory_logger(one_pl)
    newton = lambda params: RegNewton(params, curvature="gauss_newton")  # noqa: E731
    trainer(one_pl, 2, monitoring(1), logger=memory).fit(regression(one_pl, newton), batches())
    problem = problem_of(mlp(2, 5, 1), X, lambda z: torch.nn.functional.mse_loss(z, Y))
    expected = expected_numbers(problem, 1.0)["hessian/lambda_min"]
    close(memory.of("hessian/lambda_min")[0], expected)


# TensorBoard


def test_tensorboard_gets_histograms_and_figures(pl, tmp_path):
    pytest.importorskip("tensorboard")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    monitor = monitoring(1, "a/", quantities=ALL)
    trainer(pl, 2, monitor, logger=logger).fit(regression(pl), batches())
    events = reader.EventAccumulator(logger.log_dir, {"images": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    names = {f"a/{name}/eigenvalues" for name in ("hessian", "ntk", "nntk", "nntk_hessian")}
    assert set(tags["histograms"]) == names
    assert [event.step for event in events.Histograms("a/hessian/eigenvalues")] == [0, 1, 2]
    assert events.Histograms("a/ntk/eigenvalues")[0].histogram_value.num == 10
    assert tags["images"] == ["a/spectra"]
    assert [event.step for event in events.Scalars("a/hessian/lambda_min")] == [0, 1, 2]


def test_tensorboard_without_matplotlib_gets_histograms_alone(one_pl, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("lightning_callbacks.tensorboard.find_spec", lambda name: None)
    logger = one_pl.loggers.TensorBoardLogger(tmp_path)
    written = []
    monkeypatch.setattr(logger.experiment, "add_figure", lambda *a, **k: written.append(a))
    trainer(one_pl, 1, monitoring(1), logger=logger).fit(regression(one_pl), batches())
    assert not written


def test_neither_matplotlib_nor_tensorboard_is_needed():
    code = (
        "import sys, lightning_callbacks; lightning_callbacks.CurvatureMonitor(); "
        "sys.exit('lightning_callbacks.figures' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
        trainer(pl, 2, monitoring()).fit(Manual(pl), batches())
    memory = memory_logger(pl)
    monitor = monitoring(1, loss=lambda module, batch: module.loss_of(batch))
    trainer(pl, 2, monitor, logger=memory).fit(Manual(pl), batches())
    assert sorted(memory.of("hessian/lambda_min")) == [0, 1, 2]


class Endless(DataLoader):
    def __init__(self):
        class Numbers(torch.utils.data.IterableDataset):
            def __iter__(self):
                while True:
                    yield X[0], Y[0]

        super().__init__(Numbers())


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
        ({"quantities": "fisher"}, "quantities to be some of .* not 'fisher'"),
        ({"quantities": ()}, "quantities to be some of .* not none"),
        ({"logging_interval": "minute"}, "one of step, epoch, not 'minute'"),
        ({"max_overhead": 0.0}, "max_overhead to be a positive share"),
        ({"max_overhead": "10%"}, "max_overhead to be a positive share"),
        ({"figures": 1}, "figures to be True or False"),
        ({"probe": 3}, "probe to be a batch, a DataLoader or a callable"),
        ({"probe": Endless()}, "DataLoader of known length"),
        ({"loss": 3}, "loss"),
        ({"outputs": "net"}, "outputs"),
    ],
)
def test_wrong_arguments_are_explained(one_pl, arguments, reason):
    exceptions = importlib.import_module("lightning_fabric.utilities.exceptions")
    with pytest.raises(exceptions.MisconfigurationException, match=reason):
        trainer(one_pl, 1, monitoring(**arguments)).fit(regression(one_pl), batches())


def test_a_step_that_draws_its_own_batches_needs_a_loss(one_pl):
    class Module(one_pl.LightningModule):
        def training_step(self, dataloader_iter):
            raise NotImplementedError

        def configure_optimizers(self):
            return None

    exceptions = importlib.import_module("lightning_fabric.utilities.exceptions")
    with pytest.raises(exceptions.MisconfigurationException, match="dataloader_iter"):
        monitoring().setup(trainer(one_pl, 1), Module(), "fit")


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

    monitor = CurvatureMonitor(2, damping=0.1, max_overhead=max_overhead)
    memory = memory_logger(one_pl)
    run = trainer(
        one_pl, 4, First(), monitor, logger=memory,
        strategy="ddp_fork", devices=2, use_distributed_sampler=False,
    )  # fmt: skip
    run.fit(Own())
    ranks = [torch.load(tmp_path / f"{rank}") for rank in (0, 1)]
    assert ranks[0]["latest"] == ranks[1]["latest"]
    assert ranks[0]["first"] == ranks[1]["first"]
    measured = [step for step, row in ranks[0]["rows"] if "hessian/lambda_min" in row]
    assert measured == ([0, 2, 4] if max_overhead is None else [0])
    assert not any("hessian/lambda_min" in row for _, row in ranks[1]["rows"])
    expected = 0.0
    for rank in (0, 1):
        problem = problem_of(mlp(2, 5, 1), X + rank, lambda z: torch.nn.functional.mse_loss(z, Y))
        expected += expected_numbers(problem, 0.1)["hessian/lambda_min"] / 2
    close(ranks[0]["first"]["hessian/lambda_min"], expected)
