"""Several processes communicate equally often, whatever their clocks, data and failures say."""

import os
import random
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from lightning_callbacks import CurvatureMonitor, Measured, Quantity
from lightning_callbacks.allowance import Allowance, OutOfTimeError
from lightning_callbacks.bounded import Look, spectrum_work
from lightning_callbacks.costs import Costs
from lightning_callbacks.in_step import in_step
from lightning_callbacks.outcomes import ElsewhereError, MovedError
from lightning_callbacks.processes import Processes
from lightning_callbacks.quantities.base import Need
from lightning_callbacks.work import Course, Unit, Vote
from tests.callbacks.lightning_helpers import ADAM, X, Y, batches
from tests.helpers import mlp
from torch_newton import LinearOperator

# In threads, with clocks that only their own work moves


class Strategy:
    """Lets the threads of a test communicate; one that waits in vain for 30 s fails."""

    root_device = torch.device("cpu")

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=30)
        self.slots = [None] * count
        self.here = threading.local()

    def _exchanged(self, kind, thing):
        self.slots[self.here.rank] = (kind, thing)
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        assert {other for other, _ in found} == {kind}, "the processes call different things"
        return [thing for _, thing in found]

    def broadcast(self, thing):
        return self._exchanged("broadcast", thing)[0]

    def all_gather(self, tensor):
        return torch.stack(self._exchanged("all_gather", tensor))


class Clock(Allowance):
    """An allowance by a clock of its own."""

    def __init__(self, *args):
        self.time = 0.0
        super().__init__(*args)

    def now(self):
        return self.time


def in_threads(make_work, *, seconds=50.0, pause=5.0):
    """How some work ends in each of two processes, and the units that each saw."""
    strategy, ends, seen = Strategy(2), [None, None], [[], []]

    def noting(rank, work):
        answer = None
        try:
            unit = next(work)
            while True:
                seen[rank].append(unit)
                try:
                    answer = yield unit
                except OutOfTimeError as late:
                    unit = work.throw(late)
                else:
                    unit = work.send(answer)
        except StopIteration as end:
            return end.value

    def process(rank):
        strategy.here.rank = rank
        processes = Processes(SimpleNamespace(strategy=strategy, global_rank=rank))
        allowance = Clock(seconds, Costs(), None, processes)
        allowance.suspend()
        work = in_step(make_work(rank, allowance), allowance)
        course, pauses = Course(noting(rank, work), allowance), 0
        try:
            while not course.done:
                allowance.resume(pause * (1 + rank))  # the second has another pause, too
                course.advance(last=pauses % 3 == 2)
                allowance.suspend()
                pauses += 1
            ends[rank] = (pauses, "result")
        except Exception as error:
            ends[rank] = (pauses, type(error))
            if isinstance(error, (AssertionError, threading.BrokenBarrierError)):
                strategy.barrier.abort()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends, seen


def erratic(rank, allowance, seed):
    """Work whose units, times, votes and end differ from process to process."""
    draw = random.Random(f"{seed} {rank}")
    for _ in range(draw.randrange(1, 12)):
        try:
            yield Unit(draw.choice("ab"), draw.random(), draw.randrange(1, 4))
        except OutOfTimeError:
            if draw.random() < 0.5:
                raise
        allowance.time += draw.expovariate(1.0)
        if draw.random() < 0.3 and (yield Vote(draw.random() < 0.5, draw.random() < 0.1)):
            return
        if allowance.plans(draw.random()) and draw.random() < 0.03:
            raise draw.choice([ValueError, MovedError])("by chance")


def test_processes_stay_together_whatever_they_do():
    kinds = set()
    for seed in range(150):
        ends, seen = in_threads(lambda rank, allowance, seed=seed: erratic(rank, allowance, seed))
        assert len(seen[0]) == len(seen[1])
        (pauses, one), (others, other) = ends
        assert pauses == others
        kinds |= {one, other}
        assert one == other or ElsewhereError in {one, other}
    assert kinds == {"result", OutOfTimeError, ElsewhereError, ValueError, MovedError}


def test_the_number_of_units_follows_from_the_clock_of_the_first():
    slow = (1.0, 20.0)

    def work(rank, allowance):
        for _ in range(10):
            if not allowance.plans(allowance.estimate("unit")):
                return
            yield Unit("unit")
            allowance.time += slow[rank]

    ends, seen = in_threads(work, seconds=6.5)
    assert ends[0] == ends[1]
    # Six fit, and the clock is shared before each, so that of the sixth is not known after it. By
    # its own clock the second process had no time after the first.
    assert [len(units) for units in seen] == [7, 7]


def test_nobody_ends_by_a_vote_before_all_would():
    taken = [0, 0]

    def work(rank, allowance):
        while not (yield Vote(taken[rank] >= 3 + 4 * rank, False)):
            yield Unit("unit")
            taken[rank] += 1

    in_threads(work)
    assert taken == [7, 7]


def test_processes_take_as_many_products_whatever_their_matrices_and_clocks_say():
    taken, slow = [0, 0], (1.0, 7.0)
    spectra = (torch.linspace(-1.0, 2.0, 60), torch.tensor([1.0, 2.0]).repeat(30))

    def work(rank, allowance):
        diagonal = spectra[rank].double()

        def product(v):
            taken[rank] += 1
            allowance.time += slow[rank]
            return diagonal * v if v.ndim == 1 else diagonal[:, None] * v

        allowance.costs.learn("product", 1.0)
        A = LinearOperator((60, 60), product, product, torch.float64, torch.device("cpu"))
        return (yield from spectrum_work(A, Look(2e-16, 0, 100, False), allowance))

    # The second matrix has two eigenvalues, and its process ends after two products.
    ends, _ = in_threads(work, seconds=12.0)
    assert ends[0] == ends[1]
    assert taken == [2, 2]
    taken, spectra = [0, 0], (spectra[0], torch.linspace(-1.0, 2.0, 60) ** 3)
    ends, _ = in_threads(work, seconds=12.0, pause=30.0)
    assert ends[0] == ends[1]
    assert taken[0] == taken[1]
    assert 8 <= taken[0] <= 14


# In two processes


class Failing(Quantity):
    """Raises in the second process."""

    name = "failing"
    light = True  # so that it is measured first, however slow the machine is
    needs = frozenset({Need.GRADIENT})
    documentation = (("failing/rank", "the rank"),)

    def compute(self, point):
        if torch.distributed.get_rank() == 1:
            raise ValueError("in the second process")
        return Measured({"failing/rank": 0.0})


class FailingProducts(torch.autograd.Function):
    """The identity, whose second derivative raises in the second process after some uses."""

    uses = 0

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        FailingProducts.uses += 1
        if torch.distributed.get_rank() == 1 and FailingProducts.uses > 30:
            raise ValueError("in the second process")
        return grad.clone()


class Own(pl.LightningModule):
    """Each process trains on ten samples of its own, and keeps what its monitor knows."""

    def __init__(self, folder):
        super().__init__()
        self.net, self.folder = mlp(2, 5, 1), folder

    def train_dataloader(self):
        return batches(X + self.global_rank, Y)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return ADAM(self.parameters())

    def on_train_end(self):
        (monitor,) = [c for c in self.trainer.callbacks if isinstance(c, CurvatureMonitor)]
        rows = list(monitor.history)
        torch.save(
            {"latest": monitor.latest, "rows": len(rows)}, f"{self.folder}/{self.global_rank}"
        )


def failing_loss(module, batch):
    """Raises in the second process, once training has begun."""
    if torch.distributed.get_rank() == 1 and module.global_step > 7:
        raise ValueError("in the second process")
    return module.training_step(batch, 0)


def failing_products(module, batch):
    out = FailingProducts.apply(module.net(batch[0]))
    return torch.nn.functional.mse_loss(out, batch[1])


def fast_clock(allowance):
    """A clock that in the second process runs a hundred times as fast."""
    rate = 100.0 if torch.distributed.get_rank() == 1 else 1.0
    return rate * REAL_NOW(allowance)


REAL_NOW = Allowance.now


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
@pytest.mark.parametrize("what", ["clock", "quantity", "loss", "products"])
def test_what_happens_in_one_process_only_stops_none(what, tmp_path, monkeypatch):
    if what == "clock":
        monkeypatch.setattr(Allowance, "now", fast_clock)
    monitor = CurvatureMonitor(
        2,
        quantities=("hessian", "ntk", "sharpness", *([Failing()] if what == "quantity" else [])),
        loss={"loss": failing_loss, "products": failing_products}.get(what),
        max_overhead=100.0,
        exact_up_to=0,
    )
    # A process that waits for the other in vain ends after this time with an exception.
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_steps=40, max_epochs=-1,
        use_distributed_sampler=False, callbacks=[monitor], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    ).fit(Own(tmp_path))  # fmt: skip
    one, other = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    assert one["latest"] == pytest.approx(other["latest"], rel=0.0, abs=0.0, nan_ok=True)
    assert one["rows"] == other["rows"] > 0
    if what == "quantity":
        assert one["latest"]["failing/rank"] != one["latest"]["failing/rank"]
        assert one["latest"]["sharpness/gradient"] == one["latest"]["sharpness/gradient"]
