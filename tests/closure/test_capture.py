from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import assert_close, mlp, newton, randn
from torch_newton import (
    ClosureError,
    NonFiniteLossError,
    NotTwiceDifferentiableError,
    capture,
    gradient,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def x() -> Tensor:
    return nn.Parameter(torch.tensor([1.0, 2.0]))


def test_loss_and_its_graph_outlive_backward(x: Tensor) -> None:
    def closure() -> Tensor:
        loss = x.pow(3).sum()
        loss.backward()
        return loss

    captured = capture(closure)
    assert captured.called_backward
    assert float(captured.loss.detach()) == 9.0
    assert captured.returned is captured.loss
    assert_close(gradient(captured.loss, [x]), torch.tensor([3.0, 12.0]))
    assert_close(gradient(captured.loss, [x]), torch.tensor([3.0, 12.0]))


@pytest.mark.parametrize("before", [None, torch.tensor([5.0, 6.0])])
def test_capture_touches_no_gradient(x: Tensor, before: Tensor | None) -> None:
    x.grad = None if before is None else before.double().clone()
    kept = x.grad

    def closure() -> None:
        x.square().sum().backward()

    capture(closure)
    assert x.grad is kept
    assert kept is None or kept.tolist() == [5.0, 6.0]


def test_closure_that_only_returns_the_loss(x: Tensor) -> None:
    captured = capture(lambda: x.square().sum())
    assert not captured.called_backward
    assert_close(gradient(captured.loss, [x]), torch.tensor([2.0, 4.0]))


@pytest.mark.parametrize(
    "returned",
    [
        lambda loss: loss.detach(),
        lambda loss: loss.item(),
        lambda loss: {"loss": loss, "count": 3},
        lambda loss: (loss, "more"),
        lambda loss: None,
    ],
    ids=["detached", "number", "dict", "tuple", "nothing"],
)
def test_what_is_returned_does_not_matter_after_backward(
    x: Tensor, returned: Callable[[Tensor], Any]
) -> None:
    results: list[Any] = []

    def closure() -> Any:
        loss = x.square().sum()
        loss.backward()
        results.append(returned(loss))
        return results[0]

    captured = capture(closure)
    assert float(captured.loss.detach()) == 5.0
    assert captured.loss.requires_grad
    assert captured.returned is results[0]


def test_several_backward_calls_are_one_summed_loss(x: Tensor) -> None:
    def closure() -> Tensor:
        first, second = x.square().sum(), x.pow(3).sum()
        first.backward()
        second.backward()
        return second

    captured = capture(closure)
    assert float(captured.loss.detach()) == 5.0 + 9.0
    assert_close(gradient(captured.loss, [x]), torch.tensor([5.0, 16.0]))


def test_backward_with_a_gradient_argument_weighs_the_loss(x: Tensor) -> None:
    def closure() -> None:
        x.square().backward(torch.tensor([1.0, 10.0]))

    captured = capture(closure)
    assert_close(gradient(captured.loss, [x]), torch.tensor([2.0, 40.0]))


def test_backward_may_be_given_the_usual_options(x: Tensor) -> None:
    def closure() -> None:
        x.square().sum().backward(retain_graph=True, create_graph=True)

    assert float(capture(closure).loss.detach()) == 5.0


def test_nested_gradients_inside_the_closure_are_left_alone() -> None:
    model, points = mlp(2, 4, 1), randn(5, 2, seed=1).requires_grad_()

    def closure() -> Tensor:
        (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        loss = slope.square().mean()
        loss.backward()
        return loss

    captured = capture(closure)
    assert points.grad is None
    assert gradient(captured.loss, list(model.parameters())).any()


def test_the_graph_is_kept_also_under_no_grad(x: Tensor) -> None:
    def closure() -> None:
        x.square().sum().backward()

    with torch.no_grad():
        captured = capture(closure)
    assert captured.loss.requires_grad


def test_backward_works_again_after_the_closure_and_after_an_error(x: Tensor) -> None:
    capture(lambda: x.square().sum())

    def failing() -> None:
        raise KeyError("data")

    with pytest.raises(KeyError):
        capture(failing)
    x.square().sum().backward()
    assert_close(x.grad, torch.tensor([2.0, 4.0]))


def test_on_backward_is_called_at_the_moment_of_backward(x: Tensor) -> None:
    events: list[str] = []

    def closure() -> None:
        events.append("before")
        x.square().sum().backward()
        events.append("after")

    capture(closure, lambda loss: events.append(f"loss {loss.item():g}"))
    assert events == ["before", "loss 5", "after"]


def no_graph(x: Tensor) -> Tensor:
    loss = x.detach().square().sum()
    loss.backward()
    return loss


def torch_autograd_backward(x: Tensor) -> None:
    torch.autograd.backward(x.square().sum())


def backward_inputs(x: Tensor) -> None:
    x.square().sum().backward(inputs=[x])


def calling(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        value = loss(x)
        value.backward()
        return value

    return run


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "returns nothing": (lambda x: None, "neither called loss.backward"),
    "returns a number": (lambda x: x.square().sum().item(), "neither called loss.backward"),
    "returns a detached loss": (lambda x: x.square().sum().detach(), "detached tensors"),
    "torch.autograd.backward": (torch_autograd_backward, r"torch\.autograd\.backward"),
    "backward without a graph": (no_graph, "without a graph"),
    "backward with inputs": (backward_inputs, "inputs="),
    "vector": (calling(lambda x: x.square()), r"scalar, not of shape \(2,\)"),
    "vector, returned": (lambda x: x.square(), r"scalar, not of shape \(2,\)"),
    "complex": (calling(lambda x: torch.complex(x, x).sum()), "complex"),
    "complex, returned": (lambda x: torch.complex(x, x).sum(), "complex"),
}


@pytest.mark.parametrize("name", WRONG)
def test_closures_that_cannot_be_used_are_told_why(name: str, x: Tensor) -> None:
    closure, message = WRONG[name]
    with pytest.raises(ClosureError, match=message):
        capture(lambda: closure(x))


@pytest.mark.parametrize("name", WRONG)
def test_optimizer_passes_the_same_message_on_and_moves_nothing(name: str, x: Tensor) -> None:
    closure, message = WRONG[name]
    optimizer = newton([x])
    with pytest.raises(ClosureError, match=message):
        optimizer.step(lambda: closure(x))
    assert x.tolist() == [1.0, 2.0]
    assert optimizer.last_step is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("how", [calling, lambda loss: loss], ids=["backward", "returned"])
def test_loss_that_is_not_finite(
    value: float, how: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]], x: Tensor
) -> None:
    closure = how(lambda x: x.sum() * value)
    with pytest.raises(NonFiniteLossError, match=f"the loss is {value}"):
        capture(lambda: closure(x))


def test_step_without_a_closure_says_what_to_write(x: Tensor) -> None:
    optimizer = newton([x])
    for call in (optimizer.step, lambda: optimizer.step(None)):
        with pytest.raises(ClosureError, match=r"optimizer\.step\(closure\)"):
            call()


def test_closure_that_cannot_be_called(x: Tensor) -> None:
    with pytest.raises(ClosureError, match="callable closure, not Tensor"):
        newton([x]).step(x.square().sum())  # type: ignore[arg-type]


def test_torch_autograd_backward_with_the_loss_returned(x: Tensor) -> None:
    def closure() -> Tensor:
        loss = x.square().sum()
        torch.autograd.backward(loss)
        return loss

    with pytest.raises(ClosureError, match=r"write loss\.backward\(\) instead"):
        newton([x]).step(closure)


def test_torch_autograd_backward_in_a_later_step(x: Tensor) -> None:
    optimizer = newton([x], damping=1.0)
    optimizer.step(lambda: x.square().sum())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = x.square().sum()
        torch.autograd.backward(loss)
        return loss

    with pytest.raises(RuntimeError):
        optimizer.step(closure)


def test_loss_that_reaches_no_parameter(x: Tensor) -> None:
    other = nn.Parameter(torch.ones(2))
    with pytest.raises(ClosureError, match="does not depend on any parameter"):
        newton([x]).step(calling_closure(other))


def calling_closure(p: Tensor) -> Callable[[], Tensor]:
    return lambda: calling(lambda p: p.square().sum())(p)


def test_nothing_trainable(x: Tensor) -> None:
    optimizer = newton([x])
    x.requires_grad_(False)
    with pytest.raises(ClosureError, match="leave some of them trainable"):
        optimizer.step(lambda: x.square().sum())


def test_compiled_model_is_told_to_leave_the_compiler_out() -> None:
    pytest.importorskip("torch._dynamo")
    model = mlp(2, 3, 1)
    compiled = torch.compile(model, backend="aot_eager")
    points = randn(4, 2, seed=1)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = newton(model.parameters(), curvature="hessian", hvp="exact")
    with pytest.raises(NotTwiceDifferentiableError, match="_orig_mod"):
        optimizer.step(lambda: compiled(points).square().mean())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.step(lambda: compiled._orig_mod(points).square().mean())
    assert optimizer.last_step is not None
