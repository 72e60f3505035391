"""Whatever is raised in a measurement becomes a warning, unless it is asked to be raised."""

import math
import re

import pytest
import pytorch_lightning as pl
import torch

from lightning_callbacks import CurvatureMonitor, Quantity
from tests.callbacks.lightning_helpers import batches, monitoring, regression
from tests.callbacks.lightning_helpers import trainer as made
from tests.callbacks.setups import SETUPS
from tests.callbacks.setups.backward import Once
from tests.callbacks.setups.run import run


@pytest.mark.parametrize("name", ["exhausted memory", "a step that fails", "complex"])
def test_strict_raises(name):
    raised = run(SETUPS[name], lambda: CurvatureMonitor(2, max_overhead=None, strict=True)).raised
    assert re.search(r"tried to allocate|called twice|real parameters", str(raised))


def test_a_quantity_fails_alone():
    class Broken(Quantity):
        name = "broken"
        documentation = (("broken/number", "none"),)

        def compute(self, point):
            raise ZeroDivisionError("no number")

    monitor = monitoring(1, quantities=(Broken(), "ntk"))
    with pytest.warns(UserWarning, match="measuring 'broken' failed.*no number") as caught:
        made(pl, 4, monitor).fit(regression(pl), batches())
    assert sum("no number" in str(w.message) for w in caught) == 1
    assert math.isnan(monitor.latest["broken/number"])
    assert monitor.latest["ntk/lambda_max"] > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_are_no_failures(error):
    class Interrupted(Quantity):
        name = "interrupted"
        documentation = (("interrupted/number", "none"),)

        def compute(self, point):
            raise error

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        made(pl, 2, monitoring(1, quantities=Interrupted())).fit(regression(pl), batches())


def test_differences_of_gradients_give_the_hessian_to_their_accuracy(monkeypatch):
    def measured():
        return run(
            SETUPS["once differentiable"], lambda: monitoring(1, quantities="hessian")
        ).latest

    found = measured()
    monkeypatch.setattr(Once, "apply", torch.tanh)
    exact = measured()
    for end in ("hessian/lambda_min", "hessian/lambda_max"):
        difference = abs(found[end] - exact[end])
        assert difference <= found[end + "_error"]
        assert difference < 1e-2 * exact["hessian/lambda_max"]
