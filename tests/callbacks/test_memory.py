"""What a measurement holds: little more than its Lanczos vectors, and nothing when it has ended."""

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.benchmarks import monitor_memory, monitor_models
from lightning_callbacks import CurvatureMonitor, Measured, Quantity
from lightning_callbacks.allowance import Allowance
from lightning_callbacks.density_within import STEPS
from lightning_callbacks.kernel_products import products_of_loss
from lightning_callbacks.kernels_within import kernel_of_products
from lightning_callbacks.quantities.base import Need
from tests.callbacks.setups.build import Module, X, Y, mlp, squared
from tests.callbacks.setups.run import PREFIX, run
from tests.callbacks.setups.setup import Setup, Training
from torch_newton import RegNewton
from torch_newton.linalg.eigenvalues import BETWEEN_CHECKS

WITHOUT_JACOBIAN = ("hessian", "sharpness", "residuals", "alignment", "precision")


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


def wide() -> monitor_models.Model:
    """A network of which a vector of all parameters is larger than its activations."""
    net = nn.Sequential(
        nn.Linear(150, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 2)
    )
    return net, nn.functional.mse_loss, (torch.randn(3, 150), torch.randn(3, 2))


@pytest.mark.parametrize("products", [2, 20])
@pytest.mark.parametrize("pause", [6, 100])
def test_a_pause_takes_four_vectors_beside_those_of_the_lanczos_process(
    products, pause, monkeypatch
):
    """Counted by PyTorch's allocator: they were nine, with two first vectors and their products."""
    monkeypatch.setitem(monitor_models.MODELS, "wide", wide)
    found = monitor_memory.memory_of(
        "wide",
        12,
        quantities=WITHOUT_JACOBIAN,
        max_overhead=None,
        max_pause=pause,
        max_products=products,
    )
    assert found.allowed <= max(products, STEPS)
    # Eight before the process begins: while H is tested and the noise of the loss is measured.
    assert found.pause - found.product <= max(found.allowed + 4, 8)
    # The last terms: 1 kB for what is no vector, and what is held before the process begins.
    assert found.between <= max(found.allowed + 4.01, 8)


class Tag:
    """Something to which there can be weak references."""


@pytest.mark.parametrize("weighted", [False, True])
def test_a_kernel_that_is_put_down_holds_no_graph(weighted):
    net, x, label = nn.Linear(5, 3), torch.randn(8, 5), torch.randint(0, 3, (8,))
    params = list(net.parameters())

    def tagged():
        z = net(x)
        z.grad_fn.metadata["tag"] = tag = Tag()
        loss = nn.functional.cross_entropy(z, label)
        return products_of_loss(loss, params), weakref.ref(tag), loss

    held = [tagged()]
    at = SimpleNamespace(epsilon=1e-7, allowance=Allowance(1e3), scaling=None, products=8)
    work = kernel_of_products(lambda: held[0][0], at, weighted=weighted)
    next(work)
    for _ in range(2 * BETWEEN_CHECKS - 1):  # a vote and a unit for each step
        work.send(False)
    first = held[0][1]
    assert first() is not None
    held[0] = tagged()
    assert first() is None
