"""The same steps on another device, which an iteration waits for as often as its tests ask."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import mlp
from tests.other_device import OTHER, Device
from torch_newton import RegNewton
from torch_newton.linalg.conjugate_gradient import conjugate_gradient
from torch_newton.linalg.operators import from_dense

pytestmark = pytest.mark.usefixtures("float64")

STEPS = 5

WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "Gauss-Newton": {"curvature": "gauss_newton"},
    "scaled": {"curvature": "gauss_newton", "scaling": "jacobian"},
    "exact Hessian": {"curvature": "hessian"},
    "low rank": {"curvature": "gauss_newton", "max_memory": 20000},
    "iterations": {"preconditioner": None},
    "sampled rows": {"preconditioner": "sampled_rows", "cg_max_iter": 5},
    "Nystrom": {"preconditioner": "nystrom", "cg_max_iter": 5},
    "Kronecker factors": {"curvature": "kronecker"},
    "fixed damping": {"damping": 1.0},
    "undamped": {"curvature": "gauss_newton", "damping": 0.0, "lr": 0.5},
    "differences": {"hvp": "finite_difference", "preconditioner": None, "cg_max_iter": 5},
}


class Table(nn.Module):
    """An embedding, whose Jacobian is that of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.out = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(torch.tanh(self.rows(x).mean(1)))
        return result


def model_of(kind: str) -> nn.Module:
    if kind == "table":
        return Table()
    if kind == "convolution":
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
    return mlp(2, 8, 8, 3)


def batch_of(kind: str) -> tuple[Tensor, Tensor]:
    label = torch.randint(3, (30,))
    if kind == "table":
        return torch.randint(5, (30, 3)), label
    return torch.randn(30, 1, 4, 4) if kind == "convolution" else torch.randn(30, 2), label


def put(model: nn.Module, device: torch.device) -> None:
    """Move parameters, also where ``Module.to`` thinks that those of ``meta`` hold no numbers."""
    for module in model.modules():
        for name, param in list(module._parameters.items()):
            if param is not None:
                module._parameters[name] = nn.Parameter(param.detach().to(device))


def trained(kind: str, way: str, device: torch.device) -> Tensor:
    """The losses of some steps."""
    torch.manual_seed(0)
    model, (x, label) = model_of(kind), batch_of(kind)
    put(model, device)
    x, label = x.to(device), label.to(device)
    optimizer = RegNewton(model.parameters(), **WAYS[way])

    def closure() -> Tensor:
        optimizer.zero_grad()
        z = model(x)
        loss = F.cross_entropy(z, label) if kind != "regression" else (z - x[:, :1]).square().mean()
        loss.backward()
        return loss

    return torch.tensor([float(optimizer.step(closure).detach()) for _ in range(STEPS)])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # It refuses parameters on `meta`, which hold no numbers there but here.
    for module in ("torch_newton.optimizer", "torch_newton.newton.groups"):
        monkeypatch.setattr(f"{module}.check_params", lambda params: None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["regression", "classification", "table", "convolution"])
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("elsewhere")
def test_no_tensor_is_left_on_the_cpu(kind: str, way: str) -> None:
    expected = trained(kind, way, torch.device("cpu"))
    with Device():
        found = trained(kind, way, OTHER)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_an_iteration_of_conjugate_gradients_waits_for_two_pairs_of_numbers() -> None:
    torch.manual_seed(0)
    A = torch.randn(40, 40)
    A, b = A @ A.T, torch.randn(40)
    waits = []
    for iterations in (5, 15):
        with Device() as device:
            found = conjugate_gradient(
                from_dense(A.to(OTHER)), b.to(OTHER), tol=0.0, max_iter=iterations
            )
        assert found.iterations == iterations
        waits.append(device.waits)
    assert waits[1] - waits[0] == 2 * 10


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["regression", "classification", "table", "convolution"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_graphics_card_takes_the_steps_of_the_cpu(kind: str, way: str) -> None:
    expected = trained(kind, way, torch.device("cpu"))
    found = trained(kind, way, torch.device("cuda"))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_graphics_card_is_waited_for_twice_an_iteration() -> None:
    A = torch.randn(400, 400, device="cuda")
    A, b = A @ A.T, torch.randn(400, device="cuda")
    solve = lambda n: conjugate_gradient(from_dense(A), b, tol=0.0, max_iter=n)  # noqa: E731
    counts = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for iterations in (5, 15):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                solve(iterations)
            counts.append(sum("synchroniz" in str(w.message) for w in caught))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert counts[1] - counts[0] == 2 * 10
