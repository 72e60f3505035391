"""The recipes of CONTRIBUTING: each adds its thing from outside, in at most 30 lines, and works."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import closure_of, dense_jacobian
from torch_newton import RegNewton
from torch_newton.curvature import CURVATURES
from torch_newton.damping import RULES
from torch_newton.graph.readers import READERS
from torch_newton.graph.reading import MAX_ROWWISE
from torch_newton.linalg.flat import flatten
from torch_newton.preconditioners import PRECONDITIONERS

pytestmark = pytest.mark.usefixtures("float64")

TEXT = (Path(__file__).parents[1] / ".github" / "CONTRIBUTING.md").read_text()
RECIPES = {
    heading.lower(): code
    for heading, code in re.findall(r"### Add an? ([\w ]+)\n.*?```python\n(.*?)```", TEXT, re.S)
}


class Fit:
    """Half the mean squared error of a small network with one output."""

    def __init__(self, rows: int = 20) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(rows, 2)
        self.y = torch.sin(3 * self.x[:, :1]) * self.x[:, 1:]
        self.model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(self) -> Tensor:
        return (self.model(self.x) - self.y).square().mean() / 2

    def residuals(self, params: Any) -> Tensor:
        names = [name for name, _ in self.model.named_parameters()]
        values = dict(zip(names, params, strict=True))
        z: Tensor = torch.func.functional_call(self.model, values, (self.x,))
        return (z - self.y) / len(self.x) ** 0.5

    def steps(self, optimizer: RegNewton, count: int) -> list[float]:
        return [float(optimizer.step(closure_of(optimizer, self.loss))) for _ in range(count)]


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """Leave the tables as they were."""
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table)) for table in (RULES, CURVATURES, PRECONDITIONERS, READERS)
    ]
    yield
    for table, before in kept:
        table.clear()
        table.update(before)


def follow(recipe: str, **names: Any) -> dict[str, Any]:
    """What the code of a recipe defines."""
    exec(compile(RECIPES[recipe], f"CONTRIBUTING: {recipe}", "exec"), names)
    return names


def test_there_are_five_recipes_of_at_most_thirty_lines() -> None:
    assert set(RECIPES) == {
        "damping rule", "curvature", "preconditioner", "reader for an operation", "logged quantity",
    }  # fmt: skip
    for name, code in RECIPES.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 30, name


def test_a_damping_rule() -> None:
    fit = Fit()
    optimizer = follow("damping rule", model=fit.model)["optimizer"]
    losses = fit.steps(optimizer, 4)
    last = optimizer.last_step
    assert last.damping == pytest.approx(1e-3 * last.scale * losses[-1] / losses[0], rel=1e-12)


def test_a_curvature() -> None:
    fit = Fit()
    names = follow("curvature", model=fit.model)
    params = list(fit.model.parameters())
    J, r = dense_jacobian(fit.residuals, params), fit.residuals(params)[:, 0].detach()
    F = (J * r[:, None]).T @ (J * r[:, None])
    before = flatten(params).detach().clone()
    by_hand = RegNewton(params, damping=0.1, curvature=names["EmpiricalFisher"]())
    fit.steps(by_hand, 1)
    moved = flatten(params).detach() - before
    g = J.T @ r
    expected = -torch.linalg.solve(F + 0.1 * torch.eye(len(g)), g)
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-10)
    assert by_hand.last_step is not None
    assert str(by_hand.last_step.system) == "empirical_fisher + lambda I"


def test_a_curvature_adapts_and_resumes() -> None:
    fit = Fit()
    optimizer = follow("curvature", model=fit.model)["optimizer"]
    losses = fit.steps(optimizer, 20)
    assert losses[-1] < 0.3 * losses[0]
    assert all(b <= a for a, b in itertools.pairwise(losses))
    again = RegNewton(fit.model.parameters(), curvature="empirical_fisher")
    again.load_state_dict(optimizer.state_dict())
    assert again.last_step == optimizer.last_step


def test_a_preconditioner() -> None:
    fit = Fit()
    optimizer = follow("preconditioner", model=fit.model)["optimizer"]
    losses = fit.steps(optimizer, 10)
    assert optimizer.last_step.path.name == "USER"
    assert losses[-1] < 0.5 * losses[0]


def test_a_reader() -> None:
    class SmoothAbs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = nn.Parameter(torch.full((70,), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.hypot(x, self.width)

    def unread() -> tuple[str, ...]:
        # More rows than are read one at a time where there is no reader.
        fit, net = (
            Fit(MAX_ROWWISE + 1),
            nn.Sequential(nn.Linear(2, 70), SmoothAbs(), nn.Linear(70, 1)),
        )
        fit.model = net
        optimizer = RegNewton(net.parameters())
        fit.steps(optimizer, 1)
        assert optimizer.last_step is not None
        return optimizer.last_step.unread

    with pytest.warns(UserWarning, match="HypotBackward0"):
        assert len(unread()) == 1
    follow("reader for an operation")
    assert unread() == ()


def test_a_logged_quantity(tmp_path: Path) -> None:
    monitor = follow("logged quantity")["monitor"]
    from pytorch_lightning import LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    fit = Fit()

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = fit.model

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            return nn.functional.mse_loss(self.model(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    quiet: dict[str, Any] = {
        "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    }  # fmt: skip
    trainer = Trainer(
        max_steps=1, callbacks=[monitor], logger=False, default_root_dir=tmp_path,
        accelerator="cpu", precision="64-true", **quiet,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(TensorDataset(fit.x, fit.y), batch_size=20))
    loss: Callable[[], Tensor] = lambda: nn.functional.mse_loss(fit.model(fit.x), fit.y)  # noqa: E731
    grads = torch.autograd.grad(loss(), list(fit.model.parameters()))
    expected = float(flatten(grads).norm())
    assert float(trainer.callback_metrics["gradient/norm"]) == pytest.approx(expected, rel=1e-12)
