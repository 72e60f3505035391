"""What a limited time leaves of a measurement: fewer products, and bounds that hold nonetheless."""

import math
from types import SimpleNamespace

import pytest
import torch

from lightning_callbacks import CurvatureMonitor
from lightning_callbacks.allowance import Allowance, Costs, OutOfTimeError
from lightning_callbacks.bounded import kernel_within, spectrum_within
from lightning_callbacks.budget import Budget
from lightning_callbacks.kernel_products import products_of_loss
from lightning_callbacks.schedule import RESERVE, Schedule
from lightning_callbacks.spectrum import hessian_spectrum
from tests.callbacks.lightning_helpers import (
    KEYS,
    OPTIMIZERS,
    batches,
    bits,
    memory_logger,
    monitoring,
    regression,
    trainer,
)
from tests.helpers import mlp, randn, symmetric_with
from torch_newton import LinearOperator


@pytest.fixture
def clock(monkeypatch):
    """A clock that only stands where it is put, for budget and allowance alike."""
    clock = SimpleNamespace(now=0.0)
    for module in ("budget", "allowance"):
        monkeypatch.setattr(f"lightning_callbacks.{module}.time.perf_counter", lambda: clock.now)
    return clock


def slow(matrix, clock, seconds=1.0):
    """An operator of which each product takes so long."""
    counts = SimpleNamespace(products=0)

    def product(v):
        clock.now += seconds * (1 if v.ndim == 1 else v.shape[1])
        counts.products += 1 if v.ndim == 1 else v.shape[1]
        return matrix @ v

    n = len(matrix)
    return LinearOperator((n, n), product, product, matrix.dtype, matrix.device, product), counts


def within(matrix, clock, seconds, **options):
    """The spectrum in so many seconds, and the products that it took."""
    allowance = Allowance(seconds, Costs())
    A, counts = slow(matrix, clock)
    A = allowance.timed(A, "product")
    A @ torch.ones(len(matrix), dtype=matrix.dtype)
    options = {"exact_up_to": 400, "products": 100, "vectors": False, **options}
    return spectrum_within(A, 2e-16, allowance, **options), counts.products, allowance


MATRIX = symmetric_with(torch.linspace(-1, 5, 60), seed=1)


@pytest.mark.parametrize("seconds", [4, 6, 12, 24, 40, 54])
def test_the_time_is_kept_and_the_bounds_hold(clock, seconds):
    spectrum, products, allowance = within(MATRIX, clock, seconds)
    assert clock.now <= seconds
    assert products >= min(seconds, 30) - 2
    assert allowance.reduced
    values = torch.linalg.eigvalsh(MATRIX)
    for end in (spectrum.extremes.smallest, spectrum.extremes.largest):
        assert (values - end.value).abs().min() <= end.error_bound
    assert spectrum.extremes.lowest <= values[0] <= spectrum.extremes.smallest.value
    assert spectrum.negative.low <= (values < 0).double().mean() <= spectrum.negative.high


def test_bounds_narrow_with_the_time():
    errors = []
    for seconds in (4, 12, 30):
        clock = SimpleNamespace(now=0.0)
        allowance = Allowance(1e9)
        A, _ = slow(MATRIX, clock)
        spectrum = spectrum_within(
            allowance.timed(A, "product"), 2e-16, allowance, exact_up_to=0, products=seconds,
            vectors=False,
        )  # fmt: skip
        errors.append(spectrum.extremes.largest.error_bound)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("exact_up_to", [0, 400])
def test_with_enough_time_the_numbers_are_those_of_full_effort(clock, exact_up_to):
    spectrum, _, allowance = within(MATRIX, clock, 1e6, exact_up_to=exact_up_to)
    A, _ = slow(MATRIX, clock)
    expected = hessian_spectrum(A, 2e-16, exact_up_to=exact_up_to, products=100, vectors=False)
    assert spectrum.extremes == expected.extremes
    assert spectrum.negative == expected.negative
    assert not allowance.reduced


def test_without_time_for_two_products_there_is_nothing(clock):
    with pytest.raises(OutOfTimeError) as caught:
        within(MATRIX, clock, 2.4)  # one times it, and for the second 1.5 s are lacking
    assert caught.value.needed == 1.0


@pytest.mark.parametrize("loss", ["mse", "cross entropy"])
def test_kernels_by_products_are_those_of_the_rows(loss):
    net, x = mlp(2, 6, 3), randn(5, 2, seed=3)
    if loss == "mse":
        value = torch.nn.functional.mse_loss(net(x), randn(5, 3, seed=4))
    else:
        value = torch.nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 2, 0, 1]))
    params = list(net.parameters())
    K = products_of_loss(value, params)
    J, rows = K.J.dense(), K.J.shape[0]
    Q = torch.eye(rows) * K.scale**2 if K.Q is None else K.Q.dense()
    nonzero = rows if loss == "mse" else rows - 5  # a softmax sees no shift of the logits
    for operator, start, matrix, size in (
        (*K.kernel(), J @ J.T, rows),
        (*K.gauss_newton(None), J.T @ Q.to(J) @ J, nonzero),
    ):
        values = torch.linalg.eigvalsh(matrix)[-size:]
        found = kernel_within(operator, start, 2e-16, Allowance(1e9), 100)
        for end, expected in ((found.smallest, values[0]), (found.largest, values[-1])):
            assert end.value == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


# The budget


def test_a_pause_is_counted_in_training_steps(clock):
    budget = Budget(None, 20.0)
    assert budget.step_seconds is None
    for seconds in (50.0, 1.0, 2.0, 1.0, 9.0, 1.0):
        clock.now += seconds
        budget.step_ended()
    assert budget.step_seconds == 1.0
    assert budget.remaining == 20.0
    shared = Budget(0.1, 20.0)
    clock.now += 50.0
    assert shared.remaining == 0.0  # no step is timed
    assert Budget(None).remaining is None


def test_effort_grows_up_to_several_of_the_longest_pauses(clock):
    schedule = Schedule(CurvatureMonitor().arguments)
    for _ in range(220):
        clock.now += 1.0
        schedule.budget.step_ended()
    at = SimpleNamespace(global_step=200, world_size=1)
    assert schedule.due_at_step(at)
    for seconds, wanted, in_all in ((6.0, 12.0, 12.0), (12.0, 18.0, 24.0), (70.0, 18.0, 90.0)):
        with schedule.budget.measuring():
            clock.now += seconds
        schedule.took(seconds, reduced=True, lacking=0.0)
        elapsed = schedule.budget.training + schedule.budget.spent
        for left in (wanted - 0.5, wanted + 0.5):
            share = 0.1 * RESERVE
            schedule.budget.spent = (share * elapsed - left) / (1 + share)
            assert schedule.due_at_step(at) == (left > wanted)
            planned = schedule.allowance(at, None).planned()
            assert planned == pytest.approx(max(in_all, min(left, 18.0)))


# In training


@pytest.mark.parametrize("optimizer", ["adam", "newton"])
def test_by_default_it_waits_for_the_budget_and_training_is_the_same(one_pl, optimizer):
    memory = memory_logger(one_pl)
    module = regression(one_pl, OPTIMIZERS[optimizer])
    monitor = CurvatureMonitor(1, max_overhead=10.0)
    trainer(one_pl, 40, monitor, logger=memory).fit(module, batches())
    measured = sorted(memory.of("ntk/lambda_max"))
    assert measured
    assert measured[0] >= 4  # five training steps are timed before
    plain = regression(one_pl, OPTIMIZERS[optimizer])
    trainer(one_pl, 40).fit(plain, batches())
    assert bits(module.state_dict()) == bits(plain.state_dict())


@pytest.mark.parametrize("optimizer", ["adam", "newton"])
def test_where_time_suffices_numbers_are_those_of_full_effort(one_pl, optimizer):
    logs = {}
    for name, options in (
        ("bounded", {"max_overhead": 1e6, "max_pause": 1e6}),
        ("exact", {"effort": "exact", "max_overhead": 1e6}),
    ):
        memory = memory_logger(one_pl)
        monitor = CurvatureMonitor(1, damping=0.1, **options)
        module = regression(one_pl, OPTIMIZERS[optimizer])
        trainer(one_pl, 8, monitor, logger=memory).fit(module, batches())
        logs[name] = {key: memory.of(key) for key in KEYS}
    for key in KEYS:
        for step, value in logs["bounded"][key].items():
            other = logs["exact"][key][step]
            assert value == other or (math.isnan(value) and math.isnan(other)), (key, step)
    assert len(logs["bounded"]["hessian/lambda_min"]) >= 2


def test_exact_effort_measures_before_the_first_step(one_pl):
    memory = memory_logger(one_pl)
    monitor = CurvatureMonitor(1, effort="exact")
    trainer(one_pl, 2, monitor, logger=memory).fit(regression(one_pl), batches())
    assert 0 in memory.of("hessian/lambda_min")
    assert monitoring().arguments.max_pause is None


def test_what_never_fits_a_pause_is_left_out_with_one_warning(one_pl):
    monitor = CurvatureMonitor(1, max_pause=1e-6, max_overhead=1e6)
    with pytest.warns(UserWarning, match=r"'ntk' is not measured.*larger max_pause") as caught:
        trainer(one_pl, 60, monitor).fit(regression(one_pl), batches())
    assert sum("'ntk' is not measured" in str(w.message) for w in caught) == 1
    assert not monitor.latest
