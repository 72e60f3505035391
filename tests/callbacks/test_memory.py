"""What a measurement holds is freed when it ends, and not when the garbage collector runs."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from lightning_callbacks import CurvatureMonitor, Measured, Quantity
from lightning_callbacks.quantities.base import Need
from tests.callbacks.setups.build import Module, X, Y, mlp, squared
from tests.callbacks.setups.run import PREFIX, run
from tests.callbacks.setups.setup import Setup, Training
from torch_newton import RegNewton


class Witness(Quantity):
    """Notes the tensors of each point, by references that keep none of them."""

    name = "witness"
    needs = frozenset({Need.HESSIAN})
    documentation = (("witness/norm", "of the product with the gradient"),)

    def __init__(self) -> None:
        self.seen: list[weakref.ref] = []

    def compute(self, point):
        tensors = (point.gradient, point.loss, point.gradient_product)
        self.seen += [weakref.ref(tensor) for tensor in tensors]
        return Measured({"witness/norm": float(point.gradient_product.norm())})


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("newton", [False, True], ids=["probe", "observed"])
@pytest.mark.parametrize(
    "effort", [{"effort": "exact", "max_overhead": None}, {"max_overhead": 100.0}]
)
def test_nothing_is_left_to_the_garbage_collector(newton, effort):
    witness = Witness()

    def make():
        kind = {"optimizer": lambda params, lr: RegNewton(params)} if newton else {}
        return Training(Module(mlp(), squared, **kind), [(X, Y)], options={"max_steps": 40})

    def monitor():
        return CurvatureMonitor(2, PREFIX, quantities=("hessian", "ntk", witness), **effort)

    record = run(Setup("witnessed", make), monitor)
    assert record.raised is None
    assert witness.seen
    held = [reference() for reference in witness.seen]
    assert not any(tensor is not None for tensor in held)
