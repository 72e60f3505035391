"""The texts of PyTorch's errors and warnings by which the package tells their causes."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch._aot_autograd
import torch.nn.functional as F
from torch import Tensor

from tests.contract.graphs import tensor
from torch_newton import NotTwiceDifferentiableError, hessian

FALLBACK = (
    "is not implemented",
    "attention that cannot be differentiated twice gives a bare RuntimeError, and RegNewton stops "
    "in place of taking differences of gradients; autodiff/products.py",
)
COMPILED = (
    "compile",
    "a compiled model gives a bare RuntimeError, and RegNewton stops in place of taking "
    "differences of gradients; autodiff/products.py",
)


def _attention() -> Tensor:
    x = tensor(1, 1, 4, 8)
    return _twice(F.scaled_dot_product_attention(x, x, x).square().sum(), x)


def _compiled() -> Tensor:
    torch.compiler.reset()  # other tests compile linear layers too, up to the limit of recompiling
    layer = torch.nn.Linear(3, 1)
    output = torch.compile(layer, backend="aot_eager")(torch.ones(2, 3))
    return _twice(output.square().sum(), layer.weight)


def _twice(loss: Tensor, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    return second


@pytest.mark.parametrize(
    ("differentiate", "expected"), [(_attention, FALLBACK), (_compiled, COMPILED)]
)
def test_a_missing_second_derivative_is_told(
    differentiate: Callable[[], Tensor], expected: tuple[str, str]
) -> None:
    text, breaks = expected
    with pytest.raises(RuntimeError) as caught:
        differentiate()
    assert text in str(caught.value), f"PyTorch now says {caught.value}: {breaks}"


def test_the_package_takes_it_for_what_it_is() -> None:
    x = tensor(1, 1, 4, 8)
    loss = F.scaled_dot_product_attention(x, x, x).square().sum()
    with pytest.raises(NotTwiceDifferentiableError, match=r"SDPBackend\.MATH"):
        hessian(loss, [x]) @ torch.ones(x.numel())


def test_the_refusal_of_a_compiled_graph_to_be_kept() -> None:
    # Only a backend that generates code gives buffers away, and needs a C++ compiler, so the
    # text is looked up in PyTorch's source; tests/autodiff meets the error itself.
    folder = Path(torch._functorch._aot_autograd.__file__).parent
    texts = [
        constant.value
        for path in folder.glob("*.py")
        for constant in ast.walk(ast.parse(path.read_text()))
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    ]
    assert any("donated buffer" in text and "retain_graph=False" in text for text in texts), (
        "no error speaks of a 'donated buffer': the gradient of a compiled model raises; "
        "autodiff/finite_difference.py"
    )


@pytest.mark.skip("no error of PyTorch 2.13 says so, only custom operations of others may")
def test_does_not_support_double_backward() -> None:
    """`autodiff.products` looks for this text; a case belongs here if PyTorch comes to say it."""


def test_an_operation_that_cannot_be_vectorised_warns_or_raises_as_expected() -> None:
    library = torch.library.Library("torch_newton_contract", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CPU")

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return torch.ops.torch_newton_contract.twice(grad)

    x = tensor(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch._C._debug_only_display_vmap_fallback_warnings(True)
        try:
            torch.autograd.grad(Twice.apply(x), x, torch.eye(3), is_grads_batched=True)
        finally:
            torch._C._debug_only_display_vmap_fallback_warnings(False)
    assert [w for w in caught if "performance drop" in str(w.message)], (
        f"PyTorch warns otherwise of operations that it does one by one "
        f"({[str(w.message) for w in caught]}): users see the warning; autodiff/batched.py"
    )


def test_an_operation_that_needs_a_number_raises() -> None:
    class Item(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * float(grad.sum())

    x = tensor(3)
    with pytest.raises(RuntimeError):  # else it must be right, which other tests show
        torch.autograd.grad(Item.apply(x), x, torch.eye(3), is_grads_batched=True)
