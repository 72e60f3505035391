"""How early in a training there are numbers of the Hessian, on a fake clock."""

import gc
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from lightning_callbacks import CurvatureMonitor, kernel_products, second_order
from lightning_callbacks.schedule import Schedule
from lightning_callbacks.uncollected import uncollected
from tests.callbacks.lightning_helpers import batches, regression, trainer
from tests.helpers import mlp
from torch_newton import LinearOperator

COSTS = {
    "a ResNet": (0.5, 0.7, 3.0, 3.0),
    "a CNN": (0.9, 0.3, 1.8, 2.3),
    "a dense network": (1.0, 0.3, 1.6, 0.7),
    "an autoencoder": (2.0, 0.3, 1.9, 4.0),
    "a transformer": (1.1, 0.4, 2.2, 1.9),
    "an LSTM": (0.8, 2.0, 4.6, 2.8),
}
"""Training steps that an evaluation of the loss took, and besides its gradient with a graph, a
product with the Hessian, and one with the tangent kernel, in networks of the benchmark on a core.
"""


class Costly:
    """A training of which everything takes a given time on a fake clock.

    Args:
        monkeypatch: for the clock, and for what costs.
        costs: as in `COSTS`.
    """

    def __init__(self, monkeypatch, costs):
        self.now, self.measuring = 0.0, False
        self.evaluation, gradient, product, kernel = costs
        for module in ("budget", "allowance"):
            monkeypatch.setattr(f"lightning_callbacks.{module}.time.perf_counter", lambda: self.now)
        for module, name, *seconds in (
            (second_order, "hessian_from_gradient", product),
            (kernel_products, "jacobian_at", kernel / 2),
        ):
            slowed = self.slowed(getattr(module, name), *seconds)
            monkeypatch.setattr(module, name, slowed)
        plain = second_order.differentiable_gradient

        def slow_gradient(*arguments):
            self.now += gradient
            return plain(*arguments)

        monkeypatch.setattr(second_order, "differentiable_gradient", slow_gradient)

    def slowed(self, make, seconds):
        def slow(multiply):
            def product(v):
                self.now += seconds
                return multiply(v)

            return product

        def made(*arguments):
            A = make(*arguments)
            return LinearOperator(A.shape, slow(A.matvec), slow(A.rmatvec), A.dtype, A.device)

        return made

    def loss(self, z, y):
        self.now += self.evaluation * self.measuring
        return torch.nn.functional.cross_entropy(z, y)

    def around(self, pl, monitor):
        """Callbacks before and after the monitor, and it in between."""
        seen, outer = SimpleNamespace(first={}, pause=0.0, share=0.0, spent=0.0), self

        class Before(pl.Callback):
            def on_train_batch_end(self, *_):
                outer.now += 1.0
                outer.measuring = True

        class After(pl.Callback):
            def on_train_batch_end(self, trainer, *_):
                outer.measuring = False
                seen.pause = max(seen.pause, monitor.seconds - seen.spent)
                seen.spent = monitor.seconds
                if trainer.global_step >= 20:
                    seen.share = max(seen.share, monitor.overhead)
                for key in monitor.latest:
                    seen.first.setdefault(key.split("/")[0], trainer.global_step)

        return seen, (Before(), monitor, After())


@pytest.mark.parametrize("network", COSTS)
def test_there_are_numbers_of_the_hessian_within_three_hundred_steps(one_pl, network, monkeypatch):
    costly = Costly(monkeypatch, COSTS[network])
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = regression(one_pl, net=mlp(8, 60, 10), loss=costly.loss)
    seen, callbacks = costly.around(one_pl, CurvatureMonitor())
    trainer(one_pl, 320, *callbacks).fit(module, batches(x, torch.arange(32) % 10))
    assert seen.first["hessian"] <= 320
    assert seen.first["sharpness"] <= seen.first["hessian"]
    assert seen.share <= 0.1
    assert seen.pause <= 20.0


def test_what_is_awaited_does_not_wait_for_an_efficient_pause():
    schedule = Schedule(CurvatureMonitor().arguments)
    allowance = SimpleNamespace(rest=lambda: 0.0, with_reserve=lambda seconds: 1.5 * seconds)
    asked = []
    schedule._has = lambda seconds: asked.append(seconds) or True
    schedule.costs.put("opening", 2.0)
    at = SimpleNamespace(world_size=1)
    for awaited in (True, False):
        schedule.resumable(at, allowance, 1.0, awaited=awaited)
    assert asked == [4.5, 12.0]


def test_no_garbage_is_collected_in_a_pause_and_again_after_it():
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with suppress(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()  # as the user's own loop has it
    finally:
        gc.enable()
