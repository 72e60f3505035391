"""Closures of other packages, as these packages write them."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from torch.nn import functional

from torch_newton.graph.residuals import find_residuals
from torch_newton.preconditioners.function_space import function_space


def test_deepxde_trains_in_function_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DDE_BACKEND", "pytorch")
    pytest.importorskip("deepxde")
    from examples.benchmarks.deepxde_poisson import readings

    dtype = torch.get_default_dtype()
    try:
        *_, last = readings(seed=0, steps=150, every=150)
    finally:
        torch.set_default_dtype(dtype)
    assert last.path == "FUNCTION_SPACE"
    assert last.error < 1e-4


@pytest.mark.usefixtures("float64")
def test_pina_trains_in_function_space() -> None:
    pytest.importorskip("pina")
    from examples.benchmarks.pina_poisson import train

    error, path = train(seed=0, steps=150)
    assert path == "FUNCTION_SPACE"
    assert error < 1e-4


class Labelled(torch.Tensor):
    """A tensor with labels, as PINA's and others' are: plain ones become it by `as_subclass`."""

    labels: tuple[str, ...] = ("x",)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("laplacian", [False, True])
def test_tensors_of_a_subclass_are_read_as_plain_ones(laplacian: bool) -> None:
    spaces = []
    for kind in (torch.Tensor, Labelled):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
        x = torch.randn(7, 2, requires_grad=laplacian).as_subclass(kind)
        z = net(x).as_subclass(kind)
        if laplacian:
            (g,) = torch.autograd.grad(z.sum(), x, create_graph=True)
            (h,) = torch.autograd.grad(g[:, 0].sum(), x, create_graph=True)
            z = h[:, :1].as_subclass(kind)
        loss = functional.mse_loss(z, torch.ones_like(z)).as_subclass(torch.Tensor)
        found = find_residuals(loss)
        assert not found.unrecognised
        space = function_space(found, list(net.parameters()))
        assert space is not None
        assert type(space.target) is torch.Tensor
        spaces.append(space)
    plain, labelled = spaces
    torch.testing.assert_close(labelled.gram, plain.gram, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(labelled.target, plain.target, rtol=1e-12, atol=1e-14)
