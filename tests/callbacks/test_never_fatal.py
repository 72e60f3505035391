"""Whatever is hard to measure is trained as without the monitor, and one warning says why."""

import math
import re
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_callbacks import CurvatureMonitor, Quantity
from tests.callbacks.lightning_helpers import KEYS, batches, bits, monitoring, regression
from tests.callbacks.lightning_helpers import trainer as made
from tests.callbacks.setups import ALL, HESSIAN, KERNELS, NAN, SETUPS, WARNED, Once
from tests.helpers import tally

STEPS = 6


def train(name, *callbacks):
    """The weights after some steps, and what was warned of."""
    torch.manual_seed(0)
    module, batch = SETUPS[name]()
    torch.manual_seed(1)
    trainer = pl.Trainer(
        max_steps=STEPS, max_epochs=-1, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, DataLoader([batch], batch_size=None))
    said = [str(w.message) for w in caught if "CurvatureMonitor" in str(w.message)]
    return bits(module.state_dict()), said


@pytest.mark.parametrize("name", SETUPS)
def test_training_is_the_same_and_what_is_not_known_is_nan(name):
    tally("set-ups trained under the monitor, bit for bit as without it", 1, 0)
    monitor = monitoring(2)
    plain, _ = train(name)
    watched, said = train(name, monitor)
    assert watched == plain
    if name in WARNED:
        assert sum(bool(re.search(WARNED[name], message)) for message in said) == 1, said
    if name == "gan":
        for i in (0, 1):
            assert {f"{i}/hessian/lambda_max", f"{i}/sharpness/gradient"} <= set(monitor.latest)
    elif NAN.get(name) == ALL:
        assert set(monitor.latest) == KEYS
        values = {key: monitor.latest[key] for key in KEYS if key.endswith(("_min", "_max"))}
        assert all(math.isnan(value) for value in values.values())
    elif name != "loss that is NaN":
        largest = monitor.latest["hessian/lambda_max"]
        assert math.isnan(largest) == (NAN.get(name) == HESSIAN), said
        assert not math.isinf(largest)
        kernel = monitor.latest.get("ntk/lambda_max", 0.0)  # not there without outputs
        assert math.isnan(kernel) == (NAN.get(name) == KERNELS), said
    tally("set-ups trained under the monitor, bit for bit as without it", 0, 1)


@pytest.mark.parametrize("name", ["exhausted memory", "a step that fails", "complex"])
def test_strict_raises(name):
    with pytest.raises(Exception, match=r"tried to allocate|called twice|real parameters"):
        train(name, monitoring(2, strict=True))


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
    monitor, exact = (monitoring(1, quantities="hessian") for _ in range(2))
    train("once differentiable", monitor)
    monkeypatch.setattr(Once, "apply", torch.tanh)
    train("once differentiable", exact)
    for end in ("hessian/lambda_min", "hessian/lambda_max"):
        difference = abs(monitor.latest[end] - exact.latest[end])
        assert difference <= monitor.latest[end + "_error"]
        assert difference < 1e-2 * exact.latest["hessian/lambda_max"]


def test_the_default_trains_all_of_them_too():
    for name in ("mlp", "lstm", "transformer without dropout", "gan"):
        plain, _ = train(name)
        watched, _ = train(name, CurvatureMonitor(2, max_overhead=100.0))
        assert watched == plain
