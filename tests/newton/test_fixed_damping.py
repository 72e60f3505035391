"""Under a fixed damping the step is that of the dense system, however hard the system is."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_newton import RegNewton, Stop, hessian
from torch_newton.linalg.flat import flatten


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def siren(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 10), Sine(), nn.Linear(10, 10), Sine(), nn.Linear(10, 1)).to(
        dtype
    )
    x = torch.linspace(-1, 1, 100)[:, None].to(dtype)
    return model, x, torch.sin(20 * x)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-6), (torch.float32, 1e-2)])
@pytest.mark.parametrize("damping", [1e-2, 1e-3, 1e-6])
def test_the_direction_of_a_siren(damping: float, dtype: torch.dtype, tol: float) -> None:
    """Minimum residuals alone end at 10 P products with an error of 99 %."""
    model, x, y = siren(dtype)
    params: list[Tensor] = list(model.parameters())
    loss = functional.mse_loss(model(x), y)
    H = hessian(loss, params).dense().double()
    gradient = flatten(torch.autograd.grad(loss, params)).double()
    expected = torch.linalg.solve(H + damping * torch.eye(len(H)), -gradient)
    before = flatten(p.detach().clone() for p in params)
    optimizer = RegNewton(params, damping=damping)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: functional.mse_loss(model(x), y))
    step = optimizer.last_step
    assert step is not None
    assert step.stop is Stop.CONVERGED
    assert step.products < 3.2 * len(H)
    found = flatten(p.detach() for p in params) - before
    assert float((found.double() - expected).norm()) < tol * float(expected.norm())


def test_the_number_of_products_is_the_users_where_given() -> None:
    model, x, y = siren(torch.float64)
    optimizer = RegNewton(model.parameters(), damping=1e-3, cg_max_iter=30)
    with pytest.warns(UserWarning, match="after 32 products.* raise cg_max_iter or leave it out"):
        optimizer.step(lambda: functional.mse_loss(model(x), y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: functional.mse_loss(model(x), y))
