"""What `closure` reads of PyTorch's modes, functions, hooks and modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.overrides
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from tests.contract.graphs import constant, tensor
from torch_newton.closure.double_backward import TWINS

CAPTURE = "closure/capture.py"
SNAPSHOTS = "closure/snapshots.py"


class Watch(TorchFunctionMode):
    """Notes the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_backward() -> None:
    watch = Watch()
    with watch:
        tensor(3).sum().backward()
    assert Tensor.backward in watch.seen, (
        "a TorchFunctionMode no longer sees Tensor.backward: the closure's graph is used up "
        f"before the step has read it, and no closure can be captured; {CAPTURE}"
    )


def _recurrent(kind: Callable[..., nn.Module], **options: Any) -> Callable[[], Any]:
    return lambda: kind(2, 3, **options)(constant(4, 1, 2))


def _attention() -> Any:
    x = constant(3, 1, 4)
    return nn.MultiheadAttention(4, 2)(x, x, x)


TWIN_CALLS: dict[Callable[..., Any], Callable[[], Any]] = {
    functional.scaled_dot_product_attention: lambda: functional.scaled_dot_product_attention(
        tensor(1, 3, 4), tensor(1, 3, 4), tensor(1, 3, 4)
    ),
    functional.multi_head_attention_forward: _attention,
    torch.lstm: _recurrent(nn.LSTM),
    torch.gru: _recurrent(nn.GRU),
    torch.rnn_tanh: _recurrent(nn.RNN),
    torch.rnn_relu: _recurrent(nn.RNN, nonlinearity="relu"),
}
"""How a model comes to call each of `TWINS`."""


@pytest.mark.parametrize("function", TWINS, ids=lambda f: f.__name__)
def test_a_mode_sees_the_functions_that_have_a_twin(function: Callable[..., Any]) -> None:
    assert function in TWIN_CALLS, f"add a call of {function.__name__} to TWIN_CALLS"
    watch = Watch()
    with watch:
        TWIN_CALLS[function]()
    assert function in watch.seen, (
        f"a TorchFunctionMode does not see {function.__name__} under that name: the kernel that "
        "can be differentiated twice is not chosen, and the step fails or takes differences of "
        "gradients; closure/double_backward.py"
    )
    with TWINS[function]():
        TWIN_CALLS[function]()


def test_modes_can_be_counted_and_left() -> None:
    for name, owner in (
        ("_len_torch_function_stack", torch._C),
        ("_pop_mode", torch.overrides),
    ):
        assert hasattr(owner, name), (
            f"{owner.__name__}.{name} is gone: an interrupt may leave a mode behind that "
            f"withholds every later backward(); {SNAPSHOTS}"
        )
    before = torch._C._len_torch_function_stack()
    mode = Watch()
    mode.__enter__()
    try:
        counted = torch._C._len_torch_function_stack()
    finally:
        torch.overrides._pop_mode()
    assert (counted, torch._C._len_torch_function_stack()) == (before + 1, before), (
        f"the stack of TorchFunctionModes is counted or left otherwise; {SNAPSHOTS}"
    )


def test_hooks_on_a_parameter_are_seen() -> None:
    x = tensor(3)
    assert not x._backward_hooks
    handle = x.register_hook(lambda grad: grad)
    assert x._backward_hooks, (
        "a hook of a tensor no longer shows in _backward_hooks: RegNewton does not warn of hooks "
        "that spoil products with the Hessian; closure/evaluator.py"
    )
    handle.remove()
    x.register_post_accumulate_grad_hook(lambda param: None)
    assert not x._backward_hooks, (
        "the package's own counter of backward passes shows in _backward_hooks: RegNewton warns "
        "of itself; closure/evaluator.py"
    )


def test_backward_passes_are_counted_and_gradients_are_not() -> None:
    x, calls = tensor(3), []
    x.register_post_accumulate_grad_hook(calls.append)
    torch.autograd.grad(x.square().sum(), x)
    assert not calls, (
        "torch.autograd.grad runs post-accumulate hooks: accumulated micro-batches are "
        "overcounted; closure/accumulation.py"
    )
    for _ in range(2):
        (x.square() + x.exp()).sum().backward()
    assert len(calls) == 2, (
        "a post-accumulate hook no longer runs once a backward pass: accumulated micro-batches "
        "are miscounted; closure/accumulation.py"
    )


def test_a_compiled_module_is_known_and_holds_the_plain_one() -> None:
    plain = nn.Linear(2, 1)
    compiled = torch.compile(plain, backend="eager")
    assert type(compiled).__name__ == "OptimizedModule", (
        f"a compiled module is now a {type(compiled).__name__}: it is compiled again for every "
        f"hook on modules; {SNAPSHOTS}"
    )
    assert compiled._orig_mod is plain, (
        "a compiled module no longer has the plain one as _orig_mod, which an error of "
        "autodiff/products.py recommends"
    )


def test_hooks_on_all_modules_run_and_may_be_replaced_while_one_runs() -> None:
    outer, called = nn.Sequential(nn.Linear(2, 1)), []

    def pause(module: nn.Module, args: Any) -> None:
        called.append(module)
        handle.remove()
        ended.append(
            module.register_forward_hook(lambda *_: called.append("end"), always_call=True)
        )

    ended: list[Any] = []
    handle = register_module_forward_pre_hook(pause)
    outer(constant(3, 2))
    ended[0].remove()
    assert called == [outer, "end"], (
        "a global hook cannot be exchanged for one of the module while that is called: buffers "
        f"of a compiled module are not put back; {SNAPSHOTS}"
    )


def test_the_version_of_a_parameter_can_be_kept() -> None:
    from torch_newton.closure.versions import versions_kept

    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    square = (x * y).square().sum()
    with versions_kept([x, y]), torch.no_grad():
        x.clamp_(-5, 5)
        y.clamp_(-5, 5)
    assert (x._version, y._version) == (0, 0), (
        "_unsafe_preserve_version_counter no longer puts the counters back, and the graph of a loss "
        "is lost where parameters are moved and moved back; closure/versions.py"
    )
    torch.autograd.grad(square, [x, y])  # raises where the version has changed
