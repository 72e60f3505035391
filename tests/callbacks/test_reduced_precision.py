"""A network in half precision is measured as closely as its rounding allows, and in full."""

import math

import pytest
import torch
from torch import nn

from lightning_callbacks import QUANTITIES, CurvatureMonitor
from tests.callbacks.setups.build import IMAGES, LABELS, Module, entropy
from tests.callbacks.setups.run import PREFIX, run
from tests.callbacks.setups.setup import Setup, Training

BOUNDED = (
    "hessian/lambda_min", "hessian/lambda_max", "hessian/trace", "ntk/lambda_min",
    "ntk/lambda_max",
)  # fmt: skip
"""Numbers with an error bound of their own, and independent of lambda."""


def measured(precision: str, dtype: torch.dtype, **options: int) -> dict[str, float]:
    """All numbers of a classifier that stands where half precision has put it."""

    def make() -> Training:
        net = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(),
            nn.Linear(8, 3),
        )  # fmt: skip
        for param in net.parameters():
            param.data = param.data.to(dtype).float()
        module = Module(net, entropy, lambda params, lr: torch.optim.SGD(params, 0.0))
        return Training(
            module, [(IMAGES.to(dtype).float(), LABELS)], options={"precision": precision}
        )

    def monitor() -> CurvatureMonitor:
        return CurvatureMonitor(
            2, PREFIX, quantities=tuple(QUANTITIES), effort="exact", max_overhead=None, **options
        )

    record = run(Setup("in half precision", make), monitor)
    assert record.raised is None
    assert not any("failed" in message for message in record.said), record.said
    return record.latest


@pytest.mark.parametrize("exact_up_to", [1000, 0], ids=["formed", "products"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "16"])
def test_numbers_are_within_their_bounds(dtype, exact_up_to):
    name = "bf16-true" if dtype is torch.bfloat16 else "16-true"
    options = {"exact_up_to": exact_up_to, "max_rows": 1024 if exact_up_to else 4}
    found = measured(name, dtype, **options)
    true = measured("64-true", dtype, exact_up_to=1000)
    for key in BOUNDED:
        # A standard error, which a third of the estimates exceed; five never, within rounding.
        sure = 5 if key == "hessian/trace" else 1
        error = sure * found[f"{key}_error"] + true[f"{key}_error"]
        if key == "hessian/trace":
            error += 0.1 * abs(true["hessian/lambda_max"])
        assert abs(found[key] - true[key]) <= error, key
    assert found["hessian/negative_fraction_low"] <= true["hessian/negative_fraction_high"]
    assert found["hessian/negative_fraction_high"] >= true["hessian/negative_fraction_low"]
    assert found["ntk/lambda_max"] > 0.9 * true["ntk/lambda_max"], "not lost in its rounding"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "16"])
def test_every_quantity_has_a_number(dtype):
    found = measured("bf16-true" if dtype is torch.bfloat16 else "16-true", dtype)
    # No step was taken; and whether an eigenvalue is above zero is more than rounding allows.
    unknown = ("sharpness/step", "critical/", "hessian/positive_definite", "newton/", "nntk_")
    missing = [k for k, v in found.items() if math.isnan(v) and not k.startswith(unknown)]
    assert not missing
