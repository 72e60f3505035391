"""A step tests the Hessian that it uses, and takes no step with a wrong one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.autodiff.test_verification import Counted, Wrong
from tests.helpers import randn
from torch_newton import RegNewton, hessian
from torch_newton.linalg.flat import flatten, unflatten
from torch_newton.newton.verification import GRAPHS, Verified

pytestmark = pytest.mark.usefixtures("float64")


def weight_normed() -> nn.Module:
    torch.manual_seed(0)
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(weight_norm(nn.Linear(3, 8)), nn.Tanh(), nn.Linear(8, 1))


def custom() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), Wrong(), nn.Linear(8, 1))


def regression(model: nn.Module) -> Callable[[], Tensor]:
    x, y = randn(40, 3), randn(40, 1, seed=1)
    return lambda: functional.mse_loss(model(x), y)


def measured_hessian(loss: Callable[[], Tensor], params: list[Tensor]) -> Tensor:
    """By differences of gradients, P x P."""
    start, h = flatten(p.detach() for p in params), 1e-5

    def gradient(at: Tensor) -> Tensor:
        for param, piece in zip(params, unflatten(at, params), strict=True):
            param.data.copy_(piece)
        return flatten(torch.autograd.grad(loss(), params))

    columns = [(gradient(start + h * e) - gradient(start - h * e)) / (2 * h)
               for e in torch.eye(len(start))]  # fmt: skip
    gradient(start)
    matrix = torch.stack(columns, 1)
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize(
    ("make", "says"), [(weight_normed, "fused weight_norm"), (custom, "WrongTwiceBackward")]
)
def test_a_wrong_hessian_is_replaced_before_a_step_is_taken(
    make: Callable[[], nn.Module], says: str
) -> None:
    model = make()
    params: list[Tensor] = list(model.parameters())
    loss = regression(model)
    before = flatten(p.detach() for p in params)
    H = measured_hessian(loss, params)
    gradient = flatten(torch.autograd.grad(loss(), params))
    expected = torch.linalg.solve(H + 0.5 * torch.eye(len(H)), -gradient)
    optimizer = RegNewton(params, damping=0.5, preconditioner=None)
    with pytest.warns(UserWarning, match=says):
        optimizer.step(loss)
    step = flatten(p.detach() for p in params) - before
    assert float((step - expected).norm()) < 1e-6 * float(expected.norm())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(loss)


def test_exact_products_are_not_tested_where_the_user_asks_for_them() -> None:
    model = weight_normed()
    optimizer = RegNewton(model.parameters(), curvature="hessian", hvp="exact")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(regression(model))


def test_a_compiled_loss_of_a_plain_model() -> None:
    """Autograd cuts its second derivative off without a trace in the graph of the gradient."""
    pytest.importorskip("torch._dynamo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x, y = randn(20, 3), randn(20, 1, seed=1)
    compiled: Any = torch.compile(lambda z, y: (z - y).square().mean(), backend="aot_eager")
    with pytest.raises(RuntimeError, match="compiled function cannot be differentiated twice"):
        hessian(compiled(model(x), y), list(model.parameters()))
    optimizer = RegNewton(model.parameters())
    with pytest.warns(UserWarning, match="compiled"):
        optimizer.step(lambda: compiled(model(x), y))
    for _ in range(20):
        loss = optimizer.step(lambda: compiled(model(x), y))
    assert float(loss) < 0.6 * float(y.square().mean())


def test_a_gradient_that_is_none_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where such an embedding comes in after the first step, which refuses it."""
    monkeypatch.setattr("torch_newton.newton.iteration.refuse_counting", lambda loss: None)
    torch.manual_seed(0)
    model = nn.Sequential(Counted(), nn.Tanh(), nn.Linear(1, 1))
    x, y = randn(40, 16), randn(40, 1, seed=1)
    loss = lambda: functional.mse_loss(model(x), y)  # noqa: E731
    optimizer = RegNewton(model.parameters(), curvature="hessian")
    with pytest.warns(UserWarning, match="scale_grad_by_freq"):
        optimizer.step(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            optimizer.step(loss)


def test_the_test_decides_nothing() -> None:
    """So that no trajectory depends on when a test is due."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    runs, calls = [], []
    for hvp in ("auto", "exact"):
        torch.manual_seed(0)
        for layer in (model[0], model[2]):
            layer.reset_parameters()  # type: ignore[operator]
        optimizer = RegNewton(model.parameters(), curvature="hessian", hvp=hvp)
        closure, seen = regression(model), []
        for _ in range(6):
            optimizer.step(closure)
            step = optimizer.last_step
            assert step is not None
            seen.append((step.loss, step.damping, step.products, step.attempts))
        runs.append((seen, optimizer._memory.history))
        calls.append(step.closure_calls)
    assert runs[0] == runs[1]
    assert calls[0] == calls[1]  # none is due at the sixth step


def test_when_a_test_is_due() -> None:
    known, due = Verified(), []
    for step in range(1, 70):
        if known.due("a"):
            due.append(step)
        known = known.after("a")
    assert due == [1, 4, 16, 64]
    assert known.due("b")
    assert Verified.from_numbers(known.numbers()) == known


def test_graphs_that_are_always_new_are_tested_a_few_times() -> None:
    known = Verified(steps=1000)
    for number in range(GRAPHS):
        assert known.due(str(number))
        known = known.after(str(number))
    assert not known.due("another")


def test_another_graph_is_tested() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    other = weight_normed()
    loss, another = regression(model), regression(other)
    optimizer = RegNewton([*model.parameters(), *other.parameters()], curvature="hessian")
    for _ in range(2):
        optimizer.step(loss)
    with pytest.warns(UserWarning, match="fused weight_norm"):
        optimizer.step(lambda: loss() + another())
