"""Products with many vectors at once are the single ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

from tests.helpers import (
    assert_close,
    randn,
    regression,
)
from torch_newton import (
    hessian,
)
from torch_newton.autodiff.nodes import largest_gradient

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


def test_batched_products_are_the_single_ones() -> None:
    problem = regression(2, 7, 3, 2)
    H = hessian(problem.value(), problem.params)
    V = randn(H.shape[0], 9)
    assert_close(H @ V, torch.stack([H @ v for v in V.unbind(1)], 1), 1e-13)
    assert_close(H.dense(), problem.hessian(), 1e-12)


def test_the_size_of_a_batch_follows_from_the_largest_tensor_in_the_graph() -> None:
    """This fails where PyTorch no longer tells the shapes that its nodes carry."""
    x = randn(7, 3).requires_grad_()
    loss = (x @ randn(3, 11)).square().sum()
    assert loss.grad_fn is not None
    assert largest_gradient([loss.grad_fn]) == 77


def test_operations_that_cannot_be_vectorised_are_taken_one_by_one() -> None:
    class Cube(torch.autograd.Function):  # without a vmap rule
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 3 * g * x.detach() ** 2 if ctx.needs_input_grad[0] else None

    x = randn(5).requires_grad_()
    shape = (x[:, None] - x).square()
    loss = (Cube.apply(x) * 0).sum() + shape.pow(2).sum()
    H = hessian(loss, [x])
    assert_close(H.dense(), torch.stack([H @ e for e in torch.eye(5)], 1))
