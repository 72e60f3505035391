"""Random networks, losses and options: what must hold for every one of them."""

from __future__ import annotations

import copy
import itertools
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.helpers import tally
from torch_newton import Adaptive, RegNewton, WidthScaled, hessian
from torch_newton.linalg.flat import flatten

CASES = int(os.environ.get("TORCH_NEWTON_FUZZ", "2000"))

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "softplus": nn.Softplus}
DAMPINGS: dict[str, Any] = {
    "auto": "auto",
    "low": Adaptive(start=1e-6),
    "high": Adaptive(start=1e4),
    "stochastic": Adaptive(stochastic=True),
    "width": WidthScaled(gamma=3.0),
    "number": 2.0,
    "zero": 0.0,
}


@dataclass(frozen=True)
class Case:
    """One network with its loss and options."""

    seed: int
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    rows: int
    activation: str
    bias: bool
    tied: bool
    frozen: bool
    unused: bool
    several_inputs: bool
    double: bool
    scale: float
    loss: str
    damping: str
    preconditioner: str | None
    curvature: str
    hvp: str


cases = st.builds(
    Case,
    seed=st.integers(0, 10_000),
    inputs=st.integers(1, 3),
    hidden=st.lists(st.integers(1, 6), min_size=0, max_size=3).map(tuple),
    outputs=st.integers(1, 3),
    rows=st.integers(1, 8),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    bias=st.booleans(),
    tied=st.booleans(),
    frozen=st.booleans(),
    unused=st.booleans(),
    several_inputs=st.booleans(),
    double=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 1.0, 30.0]),
    loss=st.sampled_from(["mse", "sum", "huber", "cross_entropy", "bce", "exp", "decay"]),
    damping=st.sampled_from(sorted(DAMPINGS)),
    preconditioner=st.sampled_from(["auto", None]),
    curvature=st.sampled_from(["auto", "hessian", "gauss_newton"]),
    hvp=st.sampled_from(["auto", "auto", "exact", "finite_difference"]),
)


class Network(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        sizes = [case.inputs, *case.hidden]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=case.bias) for a, b in itertools.pairwise(sizes)
        )
        if case.tied:
            width = sizes[-1]
            self.square = nn.Linear(width, width, bias=case.bias)
        self.last = nn.Linear(sizes[-1], case.outputs, bias=case.bias)
        self.second = nn.Linear(case.inputs, case.outputs) if case.several_inputs else None
        self.spare = nn.Linear(2, 2) if case.unused else None
        self.activation = ACTIVATIONS[case.activation]()
        if case.frozen and self.layers:
            self.layers[0].weight.requires_grad_(False)
        self.tied = case.tied

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        if self.tied:
            x = self.activation(self.square(self.activation(self.square(x))))
        z: Tensor = self.last(x)
        return z if self.second is None else z + self.second(other)


def decay(model: nn.Module) -> Tensor:
    return sum((p.square().sum() for p in model.parameters()), torch.zeros(()))


LOSS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": lambda z, y, labels: functional.mse_loss(z, y),
    "sum": lambda z, y, labels: 0.5 * ((z - y) ** 2).sum(),
    "huber": lambda z, y, labels: functional.huber_loss(z, y),
    "cross_entropy": lambda z, y, labels: functional.cross_entropy(z, labels),
    "bce": lambda z, y, labels: functional.binary_cross_entropy_with_logits(z, (y > 0).to(z)),
    "exp": lambda z, y, labels: (z.tanh().exp() + 0.1 * z.square()).mean(),
    "decay": lambda z, y, labels: functional.mse_loss(z, y),
}


def loss_of(case: Case, model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
    x, other, y, labels = data
    loss = LOSS[case.loss](model(x, other), y, labels)
    return loss + 1e-2 * decay(model) if case.loss == "decay" else loss


def check(case: Case) -> None:  # noqa: PLR0915 - one list of invariants
    dtype = torch.float64 if case.double else torch.float32
    torch.manual_seed(case.seed)
    model = Network(case).to(dtype)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(case.scale)
    data = (
        torch.randn(case.rows, case.inputs, dtype=dtype),
        torch.randn(case.rows, case.inputs, dtype=dtype),
        torch.randn(case.rows, case.outputs, dtype=dtype),
        torch.randint(case.outputs, (case.rows,)),
    )
    curvature = case.curvature
    if case.loss == "exp":
        curvature = "hessian"  # no sum of convex terms
    rule = DAMPINGS[case.damping]
    options = {
        "damping": rule,
        "preconditioner": case.preconditioner,
        "curvature": curvature,
        "hvp": case.hvp,
    }
    optimizer = RegNewton(model.parameters(), **options)
    adaptive = rule == "auto" or isinstance(rule, Adaptive)

    def closure_for(net: nn.Module, opt: RegNewton) -> Any:
        def closure() -> Tensor:
            opt.zero_grad()
            loss = loss_of(case, net, data)
            loss.backward()
            return loss

        return closure

    small = sum(p.numel() for p in model.parameters()) <= 60
    for number in range(3):
        if number == 1:  # goes on from here as a copy that was loaded
            twin = copy.deepcopy(model)
            other = RegNewton(twin.parameters(), **options)
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        params = [p for p in model.parameters() if p.requires_grad]
        frozen = [p.detach().clone() for p in model.parameters() if not p.requires_grad]
        before = flatten(params).detach().clone()
        value = loss_of(case, model, data)
        dense = not adaptive and case.double and small and case.hvp != "finite_difference"
        H = hessian(value, params).dense() if dense else None
        optimizer.step(closure_for(model, optimizer))
        step = optimizer.last_step
        assert step is not None
        after = flatten(params).detach()
        assert bool(torch.isfinite(after).all())
        kept = [p for p in model.parameters() if not p.requires_grad]
        assert all(torch.equal(a, b) for a, b in zip(frozen, kept, strict=True))
        assert step.damping >= 0
        assert math.isfinite(step.damping)
        if adaptive:
            # Systems of single-precision rows are solved in double precision.
            solved = dtype if step.system.exact else torch.float64
            floor = 10 * torch.finfo(solved).eps * step.scale
            assert floor * (1 - 1e-6) <= step.damping <= 1e6 * step.scale * (1 + 1e-6) or (
                step.attempts == 0
            )
            now = float(loss_of(case, model, data).detach())
            slack = 100 * torch.finfo(dtype).eps * max(1e-30, abs(step.loss))
            assert now <= step.loss + slack
            if not step.accepted:
                assert torch.equal(after, before)
        elif (
            H is not None
            and curvature != "gauss_newton"
            and step.accepted
            and case.damping != "zero"
        ):
            A = H + step.damping * torch.eye(len(H), dtype=dtype)
            size = float(torch.linalg.matrix_norm(A, 2))
            if float(torch.linalg.eigvalsh(A).abs().min()) > 1e-4 * size:
                g = flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in params)
                expected = -torch.linalg.solve(A, g)
                error = float((after - before - expected).norm())
                assert error <= 1e-3 * float(expected.norm()) + 1e-12
        if number >= 1:
            other.step(closure_for(twin, other))
            assert other.last_step == step or math.isnan(step.ratio)
            same = zip(model.parameters(), twin.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in same)


def run(case: Case) -> None:
    ok = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(case)
        ok = True
    finally:
        tally("fuzz cases without failure", 1, ok)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(cases)
def test_what_must_hold_for_every_network(case: Case) -> None:
    run(case)


@pytest.mark.slow
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(cases)
def test_what_must_hold_for_very_many_networks(case: Case) -> None:
    run(case)
