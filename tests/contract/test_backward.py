"""The backward passes that are known by name to need care."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from torch_newton.autodiff.nodes import kinds
from torch_newton.autodiff.products import COMPILED


def _names(tensor: Tensor) -> set[str]:
    assert tensor.grad_fn is not None
    return set(kinds([tensor.grad_fn]))


def test_a_reentrant_checkpoint_has_its_node() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    assert "CheckpointFunctionBackward" in _names(
        checkpoint(nn.Linear(2, 1), x, use_reentrant=True)
    ), "layers in a reentrant checkpoint would silently not be trained; closure/start.py"


def test_a_compiled_function_has_its_node() -> None:
    pytest.importorskip("torch._dynamo")
    square: Any = torch.compile(lambda x: x.square().sum(), backend="aot_eager")
    names = _names(square(torch.ones(3, requires_grad=True)))
    assert any(name.startswith(COMPILED) for name in names), (
        f"a compiled loss has {names}: its second derivative would silently be cut off; "
        "autodiff/products.py"
    )


def test_fused_weight_norm_has_its_node() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    assert "WeightNormInterfaceBackward0" in _names(layer(torch.ones(1, 2))), (
        "the warning of a wrong second derivative no longer names weight_norm; "
        "newton/verification.py"
    )


@pytest.mark.parametrize("kind", ["embedding", "embedding_bag"])
def test_embeddings_say_whether_their_gradient_is_divided(kind: str) -> None:
    table, rows = torch.ones(4, 2, requires_grad=True), torch.tensor([[0, 1]])
    if kind == "embedding":
        found = functional.embedding(rows, table, scale_grad_by_freq=True)
    else:
        found = functional.embedding_bag(rows, table, scale_grad_by_freq=True)
    assert found.grad_fn is not None
    assert found.grad_fn._saved_scale_grad_by_freq is True, (  # type: ignore[attr-defined]
        "the warning of such an embedding no longer names it; newton/verification.py"
    )
