"""Weight decay is a term of the loss: the step is that of a closure which adds it itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers import closure_of, mlp, randn
from torch_newton import RegNewton, find_residuals
from torch_newton.linalg.flat import spread
from torch_newton.preconditioners.function_space import function_space
from torch_newton.preconditioners.weighted_inverse import weighted_inverse
from torch_newton.step import Path

pytestmark = pytest.mark.usefixtures("float64")

Loss = Callable[[nn.Module], Tensor]


def regression(rows: int) -> tuple[nn.Sequential, Loss]:
    """A network of 25 parameters and a mean squared error."""
    x = randn(rows, 2, seed=1)
    y = torch.sin(x[:, :1]) + x[:, 1:] / 2
    return mlp(2, 6, 1), lambda model: (model(x) - y).square().mean()


def groups(model: nn.Module, weights: Sequence[float]) -> list[dict[str, Any]]:
    """The matrices and the biases, in the order of the parameters."""
    return [
        {"params": [p], "weight_decay": weights[0 if p.ndim > 1 else 1]} for p in model.parameters()
    ]


def term(model: nn.Module, weights: Sequence[float]) -> Tensor:
    squares = [weights[0 if p.ndim > 1 else 1] / 2 * p.square().sum() for p in model.parameters()]
    return torch.stack(squares).sum()


def train(
    model: nn.Module, loss: Loss, weights: Sequence[float], steps: int = 1, **options: Any
) -> RegNewton:
    optimizer = RegNewton(groups(model, weights), **options)
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, lambda: loss(model)))
    return optimizer


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def grads(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("rows", [5, 60])
def test_ridge_regression_takes_one_step(rows: int) -> None:
    A, b, w = randn(rows, 8, seed=2), randn(rows, seed=3), 0.3
    expected = torch.linalg.solve(A.T @ A + w * torch.eye(8), A.T @ b)
    for curvature in ("hessian", "gauss_newton"):
        x = nn.Parameter(randn(8, seed=4))
        optimizer = RegNewton([x], damping=0.0, weight_decay=w, curvature=curvature)
        optimizer.step(lambda x=x: (A @ x - b).square().sum() / 2)
        assert torch.allclose(x.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("rows", [7, 60])  # fewer than parameters, and more
@pytest.mark.parametrize("weights", [(0.2, 0.2), (0.2, 0.0), (0.01, 0.3)])
@pytest.mark.parametrize("options", [{}, {"preconditioner": None}, {"scaling": "jacobian"}])
def test_a_step_is_that_of_the_term_written_into_the_closure(
    curvature: str, rows: int, weights: tuple[float, float], options: dict[str, Any]
) -> None:
    model, loss = regression(rows)
    twin = copy.deepcopy(model)
    same = {"damping": 0.05, "curvature": curvature, "cg_tol": 1e-14, **options}
    one = train(model, loss, weights, **same).last_step
    other = train(twin, lambda m: loss(m) + term(m, weights), (0, 0), **same).last_step
    assert torch.allclose(flat(model), flat(twin), rtol=0, atol=1e-10)
    assert one is not None
    assert other is not None
    for name in ("loss", "loss_after", "gradient_norm"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(
    st.floats(0, 10), st.floats(1e-6, 10), st.floats(1e-6, 10), st.sampled_from([4, 40]),
    st.booleans(),
)  # fmt: skip
def test_a_step_solves_the_dense_system(
    w: float, v: float, damping: float, rows: int, maximize: bool
) -> None:
    torch.set_default_dtype(torch.float64)
    model, loss = regression(rows)
    params, sign = dict(model.named_parameters()), -1.0 if maximize else 1.0
    sizes = [p.numel() for p in params.values()]

    def total(theta: Tensor) -> Tensor:
        pieces = theta.split(sizes)
        values = {n: t.view(p.shape) for (n, p), t in zip(params.items(), pieces, strict=True)}
        weights = [w / 2 if p.ndim > 1 else v / 2 for p in params.values()]
        squares = sum(c * t.square().sum() for c, t in zip(weights, pieces, strict=True))
        called = loss(lambda x: torch.func.functional_call(model, values, (x,)))  # type: ignore
        return sign * called + squares

    theta = flat(model)
    gradient = torch.func.grad(total)(theta)
    matrix = torch.func.hessian(total)(theta) + damping * torch.eye(len(theta))
    options = {"damping": damping, "curvature": "hessian", "cg_tol": 1e-13, "maximize": maximize}
    train(model, loss, (w, v), **options)
    step = flat(model) - theta
    residual = matrix @ step + gradient
    assert float(residual.norm()) <= 1e-9 * float(gradient.norm() + matrix.norm() * step.norm())


@pytest.mark.parametrize("weights", [(1e-2, 1e-2), (1e-2, 0.0)])
@pytest.mark.parametrize(
    ("options", "rows"), [({}, 12), ({"curvature": "gauss_newton", "scaling": "jacobian"}, 80)]
)
def test_training_ends_at_a_minimum_of_the_sum(
    weights: tuple[float, float], options: dict[str, Any], rows: int
) -> None:
    model, loss = regression(rows)
    train(model, loss, weights, steps=100, **options)
    model.zero_grad()
    (loss(model) + term(model, weights)).backward()
    # Linear convergence where a Gauss-Newton matrix leaves out what large residuals curve.
    assert float(grads(model).norm()) < 1e-3


def test_loss_and_gradients_that_a_step_leaves_are_the_closures() -> None:
    model, loss = regression(12)
    expected = loss(model)
    expected.backward()
    own = grads(model).clone()
    optimizer = RegNewton(model.parameters(), weight_decay=0.5)
    seen: list[Any] = []
    optimizer.register_observer(seen.append)
    before = term(model, (0.5, 0.5))
    returned = optimizer.step(closure_of(optimizer, lambda: loss(model)))
    assert float(returned) == float(expected)
    assert torch.allclose(grads(model), own, rtol=0, atol=1e-15)
    assert torch.allclose(seen[0].gradient, own, rtol=0, atol=1e-15)
    assert optimizer.last_step is not None
    assert optimizer.last_step.loss == pytest.approx(float(expected + before), rel=1e-14)
    after = loss(model) + term(model, (0.5, 0.5))
    assert optimizer.last_step.loss_after == pytest.approx(float(after), rel=1e-14)


def test_a_parameter_that_the_loss_does_not_use_decays_and_a_frozen_one_does_not() -> None:
    model, loss = regression(12)
    unused, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    params = [*model.parameters(), unused, frozen]
    optimizer = RegNewton(params, weight_decay=0.1, damping=0.1)
    optimizer.step(closure_of(optimizer, lambda: loss(model)))
    assert torch.allclose(unused.detach(), torch.full((2,), 0.5), atol=1e-12)
    assert unused.grad is None
    assert bool((frozen == 1).all())


def test_accumulated_and_clipped_gradients_have_the_term_once() -> None:
    model, loss = regression(12)
    twin = copy.deepcopy(model)
    options = {"damping": 0.05, "curvature": "hessian", "cg_tol": 1e-14}
    optimizer = RegNewton(model.parameters(), weight_decay=0.2, **options)
    loss(model).backward()  # the same batch a second time

    def last() -> Tensor:
        value = loss(model)
        value.backward()
        return value

    optimizer.step(last)
    train(twin, lambda m: 2 * loss(m) + term(m, (0.2, 0.2)), (0, 0), **options)
    assert torch.allclose(flat(model), flat(twin), rtol=0, atol=1e-10)


def test_a_run_resumed_from_a_checkpoint_goes_on_as_if_it_had_not_stopped() -> None:
    model, loss = regression(12)
    optimizer = train(model, loss, (0.1, 0.0), steps=3)
    twin = copy.deepcopy(model)
    resumed = RegNewton(groups(twin, (0.0, 0.0)))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [g["weight_decay"] for g in resumed.param_groups] == [0.1, 0.0] * 2
    for run, of in ((optimizer, model), (resumed, twin)):
        for _ in range(3):
            run.step(closure_of(run, lambda of=of: loss(of)))
    assert torch.equal(flat(model), flat(twin))


def test_a_checkpoint_without_weight_decay_loads() -> None:
    model, loss = regression(12)
    optimizer = train(model, loss, (0.0, 0.0), steps=2)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["weight_decay"]
    optimizer.load_state_dict(state)
    optimizer.step(closure_of(optimizer, lambda: loss(model)))


def test_a_scheduler_of_the_weight_does_not_pass_for_another_batch() -> None:
    model, loss = regression(12)
    optimizer = RegNewton(model.parameters(), weight_decay=0.1)
    for _ in range(6):
        optimizer.step(closure_of(optimizer, lambda: loss(model)))
        optimizer.param_groups[0]["weight_decay"] *= 0.7
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is not Path.KRONECKER
    assert optimizer._memory.batches.changes == 0


@pytest.mark.parametrize("weights", [(1e-2, 1e-2), (1e-2, 0.0)])
def test_steps_along_kronecker_factors_end_at_the_same_minimum(
    weights: tuple[float, float],
) -> None:
    model, loss = regression(40)
    train(model, loss, weights, steps=100)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for param in moved.parameters():
            param.add_(0.1 * randn(*param.shape, seed=5))
    least, before = (float((loss(m) + term(m, weights)).detach()) for m in (model, moved))
    train(moved, loss, weights, steps=100, curvature="kronecker")
    after = float((loss(moved) + term(moved, weights)).detach())
    assert after - least < 1e-3 * (before - least)


def test_iterative_solves_with_a_factor_of_low_rank() -> None:
    model, loss = regression(60)
    twin, weights = copy.deepcopy(model), (0.05, 0.0)
    few = {"max_memory": 2000, "curvature": "gauss_newton", "cg_tol": 1e-13, "cg_max_iter": 400}
    step = train(model, loss, weights, **few).last_step
    assert step is not None
    assert step.path is Path.LOW_RANK
    train(twin, loss, weights, curvature="gauss_newton", damping=step.damping)
    assert torch.allclose(flat(model), flat(twin), rtol=0, atol=1e-8)


def test_single_precision_rows_are_weighted_in_the_precision_of_the_solve() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 30), nn.Tanh(), nn.Linear(30, 1)).float()
    x = torch.randn(20, 3, dtype=torch.float32)
    params = list(net.parameters())
    space = function_space(find_residuals(net(x).square().mean()), params)
    assert space is not None
    assert space.dtype is torch.float64
    weights = [3e-4, 1e-4, 3e-4, 1e-4]
    inverse, exact = weighted_inverse(space, 1e-4, weights, None)
    J, E = space.jacobian.dense(), 1e-4 + spread(weights, params, torch.float64)
    expected = -torch.linalg.solve(J.T @ J + torch.diag(E), space.gradient)
    assert exact
    found, _ = inverse.step(space.gradient)
    assert float((found - expected).norm()) <= 1e-11 * float(expected.norm())
