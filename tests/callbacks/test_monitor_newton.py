"""CurvatureMonitor with RegNewton measures the optimizer's own step."""

import copy
import math

import pytest
import torch

from tests.callbacks.lightning_helpers import (
    ALL,
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
from torch_newton import RegNewton


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


def test_watching_newton_evaluates_the_loss_once_in_a_run(one_pl):
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
    assert counts[1] == counts[0] + 1  # to see whether hooks on tensors change gradients


def test_the_gauss_newton_optimizer_is_watched_with_the_true_hessian(one_pl):
    memory = memory_logger(one_pl)
    newton = lambda params: RegNewton(params, curvature="gauss_newton")  # noqa: E731
    trainer(one_pl, 2, monitoring(1), logger=memory).fit(regression(one_pl, newton), batches())
    problem = problem_of(mlp(2, 5, 1), X, lambda z: torch.nn.functional.mse_loss(z, Y))
    expected = expected_numbers(problem, 1.0)["hessian/lambda_min"]
    close(memory.of("hessian/lambda_min")[0], expected)
