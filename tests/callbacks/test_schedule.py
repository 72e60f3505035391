"""When CurvatureMonitor measures, and on what."""

from types import SimpleNamespace

import pytest
import torch

from lightning_callbacks import CurvatureMonitor
from lightning_callbacks.budget import Budget
from tests.callbacks.lightning_helpers import (
    KEYS,
    OPTIMIZERS,
    X,
    Y,
    batches,
    bits,
    close,
    expected_numbers,
    memory_logger,
    monitoring,
    regression,
    trainer,
)
from tests.helpers import mlp, problem_of
from torch_newton import RegNewton


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
    monitor = CurvatureMonitor(1, max_overhead=1e-6, effort="exact")
    module = regression(one_pl, OPTIMIZERS[optimizer])
    trainer(one_pl, 6, monitor, logger=memory).fit(module, batches())
    assert sorted(memory.of("hessian/lambda_min")) == [0]
    plain = regression(one_pl, OPTIMIZERS[optimizer])
    trainer(one_pl, 6).fit(plain, batches())
    assert bits(module.state_dict()) == bits(plain.state_dict())
