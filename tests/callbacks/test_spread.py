"""Work that is spread over several pauses: its units, its limits on a fake clock, its numbers."""

import copy
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from lightning_callbacks import CurvatureMonitor, second_order
from lightning_callbacks.allowance import Allowance, OutOfTimeError
from lightning_callbacks.bounded import PROBES, Look, kernel_work, spectrum_work
from lightning_callbacks.budget import Budget
from lightning_callbacks.costs import LATE_KEPT, Costs
from lightning_callbacks.quantities.table import QUANTITIES
from lightning_callbacks.schedule import Schedule
from lightning_callbacks.work import Course, Unit, run
from tests.callbacks.lightning_helpers import (
    X,
    Y,
    batches,
    bits,
    memory_logger,
    regression,
    trainer,
)
from tests.helpers import mlp, symmetric_with
from torch_newton import LinearOperator, hessian


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    for module in ("budget", "allowance"):
        monkeypatch.setattr(f"lightning_callbacks.{module}.time.perf_counter", lambda: clock.now)
    return clock


# Units


def counting(clock, seconds):
    """Work of units that take so many seconds; it returns how many were done."""
    done = 0
    for cost in seconds:
        try:
            yield Unit("unit", 1.0)
        except OutOfTimeError:
            return done
        clock.now += cost
        done += 1
    return done


def test_work_is_put_down_and_taken_up_between_units(clock):
    allowance = Allowance(100.0)
    allowance.suspend()
    course = Course(counting(clock, [1.0] * 10), allowance)
    pauses = 0
    while not course.done:
        allowance.resume(4.0)
        began = clock.now
        course.advance()
        assert clock.now - began <= 4.0
        allowance.suspend()
        clock.now += 50.0  # training, which does not count
        pauses += 1
    assert course.result == 10
    assert allowance.spent == 10.0
    assert pauses == 4  # three units each: for a fourth, half a second more must be left


def test_what_never_fits_is_given_up_and_tried_for_less_later(clock):
    allowance = Allowance(100.0)
    allowance.costs.put("unit", 3.0)
    allowance.suspend()
    allowance.resume(4.0)
    course = Course(counting(clock, [1.0]), allowance)
    assert not course.advance()  # a longer pause may come
    assert course.needs == 3.0
    assert course.advance(last=True)
    assert course.result == 0
    # The only time of the unit was that of a cold start: half of it is reckoned with next.
    assert run(counting(clock, [1.0]), allowance) == 1


def test_a_guess_may_follow_from_the_unit_before(clock):
    allowance = Allowance(10.0)

    def work():
        yield Unit("first")
        clock.now += 4.0
        with suppress(OutOfTimeError):
            yield Unit("second", lambda: 2 * allowance.estimate("first"))
            clock.now += 8.0

    run(work(), allowance)
    assert clock.now == 4.0  # eight seconds more would not have fitted


def test_what_is_raised_ends_the_work():
    def failing():
        yield Unit("unit")
        raise KeyError("no")

    course = Course(failing(), Allowance(1.0))
    with pytest.raises(KeyError):
        course.advance()
    assert course.done


def test_costs_are_the_longest_of_late_without_the_cold_start():
    costs = Costs()
    assert costs.estimate("a", 5.0) == 5.0
    for seconds, expected in ((9.0, 9.0), (1.0, 1.0), (3.0, 3.0), (1.0, 3.0)):
        costs.put("a", seconds)
        assert costs.of("a") == expected
    for _ in range(5):
        costs.put("a", 1.0)
    assert costs.of("a") == 1.0
    costs.put("a", 2.0)
    costs.relax("a")
    assert costs.estimate("a") == 1.0
    costs.relax("b")
    assert costs.estimate("b", 4.0) == 2.0


def test_as_late_as_a_piece_was_the_next_may_be(clock):
    allowance = Allowance(100.0)
    for seconds in (9.0, 1.0, 4.0):  # the first is a cold start, and nobody expected the third
        allowance.costs.put("a", seconds)
    assert allowance.costs.late == 3.0
    for left, fits in ((3.9, False), (4.0, True)):
        allowance.resume(left)
        assert allowance.fits(1.0) == fits  # a piece of any kind
    for _ in range(LATE_KEPT):
        allowance.costs.put("a", 1.0)
    assert allowance.costs.late == 0.0


def test_a_quantity_never_computed_is_reckoned_with_evaluations_or_a_product(clock):
    allowance = Allowance(100.0)
    point = SimpleNamespace(allowance=allowance)
    for name in ("residuals", "sharpness"):
        guess = next(QUANTITIES[name].work(point)).guess
        for _ in range(2):
            allowance.costs.put("evaluation", 1.0)
        assert guess() == 2.0
    allowance.costs.put("product", 5.0)
    assert guess() == 5.0


def test_time_in_a_hook_counts_once(clock):
    budget = Budget(0.1)
    clock.now += 10.0
    with budget.spending():
        clock.now += 1.0
        with budget.measuring():
            clock.now += 2.0
        clock.now += 3.0  # as freeing what the measurement held
    assert (budget.spent, budget.longest, budget.training) == (6.0, 6.0, 10.0)


def test_a_measurement_draws_its_first_vector_once(one_pl, monkeypatch):
    module = regression(one_pl, net=mlp(2, 20, 1))
    size, drawn, plain = sum(p.numel() for p in module.parameters()), [], torch.randn

    def randn(*shape, **options):
        drawn.append(shape)
        return plain(*shape, **options)

    monkeypatch.setattr(torch, "randn", randn)
    allowed = {"max_overhead": 1e9, "max_pause": 1e9, "exact_up_to": 0}
    monitor = CurvatureMonitor(1000, quantities=("hessian", "sharpness"), **allowed)
    trainer(one_pl, 8, monitor).fit(module, batches())
    assert monitor.latest["hessian/lambda_max"] > 0
    assert drawn.count((size,)) == 1 + PROBES  # those of the density are vectors of their own


# The limits, on a fake clock


class Simulation:
    """A training of which all takes a given time, under the monitor's schedule.

    Args:
        clock: the fake one.
        opening: training steps that evaluating the loss takes.
        product: training steps that a product takes.
        outlier: how many times as long everything takes at random, in one of twenty cases.
        seed: of these.
    """

    def __init__(self, clock, opening, product, outlier, seed):
        self.clock, self.opening, self.product, self.outlier = clock, opening, product, outlier
        self.random = torch.Generator().manual_seed(seed)
        self.schedule = Schedule(CurvatureMonitor().arguments)
        self.at = SimpleNamespace(global_step=0, world_size=1)
        self.worst = self.longest = 0.0
        self.finished = []
        matrix = symmetric_with(torch.linspace(-1, 5, 500), seed=1)
        self.H = LinearOperator(
            matrix.shape, lambda v: self.times(matrix, v), lambda v: self.times(matrix, v),
            matrix.dtype, matrix.device,
        )  # fmt: skip
        self.course = self.allowance = None

    def take(self, seconds):
        chance = float(torch.rand((), generator=self.random))
        usual = 1 + 0.3 * float(torch.rand((), generator=self.random))
        self.clock.now += seconds * (self.outlier if chance < 0.05 else usual)

    def times(self, matrix, v):
        self.take(self.product)
        return matrix @ v

    def work(self):
        for name in ("kernel", "product"):
            yield Unit(name, 3 * self.opening)
            self.take(self.product)
        allowance = self.allowance
        start = torch.ones(500, dtype=torch.float64)
        allowance.begin(2)
        with suppress(OutOfTimeError):
            yield from kernel_work(self.H, start, 1e-16, allowance, 100)
        allowance.begin(1)
        return (yield from spectrum_work(self.H, Look(1e-16, 400, 100, False), allowance))

    def pause(self):
        allowance, schedule = self.allowance, self.schedule
        before = schedule.budget.spent
        with schedule.pausing(allowance) as full:
            try:
                guess = 3 * allowance.step  # as Probe reckons before it has tried
                allowance.require(allowance.estimate("gradient", guess))
                began = self.clock.now
                self.take(self.opening)
                allowance.costs.put("gradient", self.clock.now - began)
                allowance.costs.put("opening", self.clock.now - began)
                ended = self.course.advance(last=full)
            except OutOfTimeError:
                ended = True
        if ended:
            schedule.took(allowance.spent, reduced=allowance.reduced, lacking=0.0)
            self.finished.append((self.at.global_step, getattr(self.course, "result", None)))
            schedule.measured_at = self.at.global_step
            self.course = None
        self.longest = max(self.longest, schedule.budget.spent - before)

    def step(self):
        self.take(1.0)
        schedule = self.schedule
        schedule.budget.step_ended()
        self.at.global_step += 1
        if self.course is None and schedule.due_at_step(self.at):
            self.allowance = schedule.allowance(self.at, None)
            self.course = Course(self.work(), self.allowance)
            self.pause()
        elif self.course and schedule.resumable(self.at, self.allowance, self.course.needs):
            self.pause()
        if self.at.global_step >= 20:
            self.worst = max(self.worst, schedule.budget.spent / schedule.budget.training)


@pytest.mark.parametrize("outlier", [1.0, 2.0])
@pytest.mark.parametrize(
    ("opening", "product"), [(0.1, 0.05), (0.5, 1.0), (1.0, 1.5), (2.0, 3.0), (2.5, 4.5)]
)
def test_the_limits_hold_whatever_things_cost(clock, opening, product, outlier):
    for seed in range(2):
        run = Simulation(clock, opening, product, outlier, seed)
        for _ in range(1200):
            run.step()
        assert run.worst <= 0.1
        assert run.longest <= 20.0 * run.schedule.budget.step_seconds
        assert run.worst >= 0.05, "the time allowed was hardly used"
        found = [(step, spectrum) for step, spectrum in run.finished if spectrum is not None]
        assert found[0][0] <= 700
        for _, spectrum in found:
            assert spectrum.extremes.products >= 2
            assert -1 <= spectrum.extremes.smallest.value <= spectrum.extremes.largest.value <= 5


def test_what_fits_no_pause_is_tried_once_at_most(clock):
    run = Simulation(clock, 1.0, 30.0, 1.0, 0)  # ten times what a product was ever seen to take
    for _ in range(1200):
        run.step()
    assert run.longest <= 40.0 * run.schedule.budget.step_seconds
    assert run.worst <= 0.35
    assert not any(spectrum for _, spectrum in run.finished)


# In training


class Slow:
    """A training of which each evaluation takes a second of the fake clock, and each product five.

    Args:
        clock: the fake one.
        monkeypatch: for the products.
    """

    def __init__(self, clock, monkeypatch):
        self.clock, self.at = clock, {}
        plain = second_order.hessian_from_gradient

        def slowed(grads, params):
            H = plain(grads, params)

            def product(v):
                clock.now += 4.0
                return H.matvec(v)

            return LinearOperator(H.shape, product, product, H.dtype, H.device)

        monkeypatch.setattr(second_order, "hessian_from_gradient", slowed)

    def module(self, pl):
        def loss(z, y):
            self.clock.now += 1.0
            return torch.nn.functional.mse_loss(z, y)

        net = torch.nn.Sequential(mlp(2, 5), torch.nn.BatchNorm1d(5).double(), mlp(5, 1))
        return regression(pl, net=net, loss=loss)

    def recorder(self, pl):
        at = self.at

        class Record(pl.Callback):
            def on_train_batch_end(self, trainer, module, *_):
                at[trainer.global_step] = copy.deepcopy(module.net)

        return Record()


def test_numbers_finished_later_are_those_of_the_point_where_they_were_begun(
    one_pl, clock, monkeypatch
):
    slow, memory = Slow(clock, monkeypatch), memory_logger(one_pl)
    module = slow.module(one_pl)
    before = copy.deepcopy(module)
    monitor = CurvatureMonitor(10, exact_up_to=0, quantities=("hessian", "ntk"))
    trainer(one_pl, 900, slow.recorder(one_pl), monitor, logger=memory).fit(module, batches())
    plain = trainer(one_pl, 900)
    plain.fit(before, batches())
    assert bits(module.state_dict()) == bits(before.state_dict())
    rows = [(step, row) for step, row in memory.rows if "hessian/lambda_max" in row]
    assert any(step > row["measured_at"] for step, row in rows)
    for _, row in rows:
        net = slow.at[int(row["measured_at"])]
        values = torch.linalg.eigvalsh(
            hessian(torch.nn.functional.mse_loss(net(X), Y), list(net.parameters())).dense()
        )
        for end in ("min", "max"):
            value, error = row[f"hessian/lambda_{end}"], row[f"hessian/lambda_{end}_error"]
            assert (values - value).abs().min() <= error
        assert row["hessian/lambda_min_lowest"] <= values[0] + 1e-12
        low, high = row["hessian/negative_fraction_low"], row["hessian/negative_fraction_high"]
        assert low <= (values < 0).double().mean() <= high
        if row["hessian/positive_definite"] == 1:
            damping = row["hessian/damped_lambda_min"] - row["hessian/lambda_min"]
            assert values[0] + damping > 0
    assert monitor.overhead <= 0.1


def test_a_loss_that_depends_on_the_step_is_measured_in_one_pause(one_pl, clock, monkeypatch):
    slow = Slow(clock, monkeypatch)
    module = slow.module(one_pl)
    step = module.training_step
    module.training_step = lambda batch: (1 + 0.01 * module.global_step) * step(batch)
    monitor = CurvatureMonitor(10, exact_up_to=0, quantities="hessian")
    with pytest.warns(UserWarning, match="cannot be continued after further steps") as caught:
        trainer(one_pl, 700, monitor).fit(module, batches())
    assert sum("cannot be continued" in str(w.message) for w in caught) == 1
    assert monitor.latest["hessian/lambda_max"] > 0
