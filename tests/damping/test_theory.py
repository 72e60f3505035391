from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.damping.test_rules import ATTEMPT, SCALE, STEP
from tests.helpers import assert_close, closure_of, mlp, randn
from torch_newton import (
    Adaptive,
    ClosureError,
    KernelMin,
    RegNewton,
    ResidualFollowing,
    WidthScaled,
    find_residuals,
)
from torch_newton.damping import damping_rule
from torch_newton.preconditioners.function_space import function_space
from torch_newton.preconditioners.least_squares import least_squares_step

pytestmark = pytest.mark.usefixtures("float64")


# The width rule's exponent.


@pytest.mark.parametrize("beta", [0.5, 0.52, 0.75, 0.9])
def test_exponents_within_the_window_are_taken(beta: float) -> None:
    for exponent in (2 * beta - 1, 1.5 * beta - 0.5, beta - 1e-6):
        rule = WidthScaled(gamma=3.0, beta=beta, exponent=exponent)
        assert rule(None, SCALE) == pytest.approx(3.0 * 16**-exponent)
    assert WidthScaled(beta=beta) == WidthScaled(beta=beta, exponent=None)
    assert WidthScaled(beta=beta).delta == 2 * beta - 1


@pytest.mark.parametrize(
    ("exponent", "message"),
    [(0.1, "outgrow the kernel"), (0.75, "indefinite part"), (math.nan, "exponent < beta")],
)
def test_exponents_outside_the_window_are_refused(exponent: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WidthScaled(beta=0.75, exponent=exponent)


# Rules that follow the kernel and the residual.


def test_kernel_min_is_the_formula_with_its_floor() -> None:
    rule = KernelMin(factor=0.25)
    assert rule(None, replace(SCALE, kernel=lambda: (0.4, 7.0))) == pytest.approx(0.1)
    assert rule(STEP, replace(SCALE, kernel=lambda: (-1e-17, 7.0))) == pytest.approx(0.25 * 7e-12)
    assert rule.retry(0.5, ATTEMPT, SCALE) == 2.0
    assert rule.accepts(replace(ATTEMPT, ratio=0.5))
    assert not rule.accepts(replace(ATTEMPT, ratio=-1.0))
    assert damping_rule("kernel_min") == KernelMin()


def test_residual_following_is_the_formula() -> None:
    scale = replace(SCALE, first_loss=8.0, loss=2.0)
    assert ResidualFollowing(3.0)(None, scale) == pytest.approx(1.5)
    assert ResidualFollowing(WidthScaled(0.2))(STEP, scale) == pytest.approx(0.1 * 16**-0.04)
    start = Adaptive()(None, scale)
    assert damping_rule("residual")(STEP, scale) == pytest.approx(start / 2)
    assert ResidualFollowing(3.0)(None, replace(scale, first_loss=0.0, loss=0.0)) == 3.0


def test_bad_constants_and_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="factor"):
        KernelMin(factor=0.0)
    with pytest.raises(ValueError, match="attempt"):
        KernelMin(attempts=0)
    with pytest.raises(ValueError, match="not in hand"):
        KernelMin()(None, SCALE)
    with pytest.raises(ValueError, match="kernel is zero"):
        KernelMin()(None, replace(SCALE, kernel=lambda: (0.0, 0.0)))
    with pytest.raises(ValueError, match="damping"):
        ResidualFollowing(-1.0)
    with pytest.raises(ValueError, match="not negative"):
        ResidualFollowing(1.0)(None, replace(SCALE, first_loss=1.0, loss=-1.0))


class Regression:
    """A small network with its data, its optimizer and the closure."""

    def __init__(self, *sizes: int, rows: int, model: nn.Module | None = None, **options: object):
        self.model = mlp(*sizes) if model is None else model
        self.x, self.y = randn(rows, sizes[0], seed=1), randn(rows, sizes[-1], seed=2)
        self.optimizer = RegNewton(self.model.parameters(), **options)  # type: ignore[arg-type]

    def loss(self) -> Tensor:
        return (self.model(self.x) - self.y).square().sum() / (2 * len(self.x))

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.optimizer.step(closure_of(self.optimizer, self.loss))

    def rows(self) -> Tensor:
        """J / sqrt(M), so that the Gauss-Newton matrix is its square."""
        outputs = self.model(self.x).reshape(-1) / math.sqrt(len(self.x))
        return torch.stack([self._gradient(z) for z in outputs])

    def residual(self) -> Tensor:
        difference = (self.model(self.x) - self.y).reshape(-1)
        return (difference / math.sqrt(len(self.x))).detach()

    def _gradient(self, z: Tensor) -> Tensor:
        grads = torch.autograd.grad(z, list(self.model.parameters()), retain_graph=True)
        return torch.cat([grad.reshape(-1) for grad in grads])


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_kernel_min_sees_the_smallest_eigenvalue_of_every_step(curvature: str) -> None:
    run = Regression(
        2, 20, 1, rows=6, damping=KernelMin(0.5), curvature=curvature, lr=0.5, scaling=None
    )
    for _ in range(4):
        J = run.rows()
        expected = 0.5 * float(torch.linalg.eigvalsh(J @ J.T)[0])
        run.step()
        if run.optimizer.last_step.attempts == 1:
            assert run.optimizer.last_step.damping == pytest.approx(expected, rel=1e-6)
    assert run.optimizer.last_step.iteration == 4


def test_kernel_min_with_fewer_parameters_than_rows() -> None:
    run = Regression(1, 2, 1, rows=12, damping="kernel_min", curvature="gauss_newton", scaling=None)
    J = run.rows()
    expected = float(torch.linalg.eigvalsh(J.T @ J)[0])
    run.step()
    step = run.optimizer.last_step
    raised = step.attempts - 1 if step.accepted else step.attempts
    assert step.damping == pytest.approx(expected * 4**raised, rel=1e-6)


def test_kernel_min_goes_on_where_a_refused_step_ended() -> None:
    scale = replace(SCALE, kernel=lambda: (0.4, 7.0))
    assert KernelMin()(replace(STEP, accepted=False, damping=9.0), scale) == 9.0
    assert KernelMin()(replace(STEP, accepted=False, damping=0.1), scale) == 0.4
    assert KernelMin()(replace(STEP, accepted=True, damping=9.0), scale) == 0.4


def test_kernel_min_without_rows_says_what_to_do() -> None:
    run = Regression(2, 5, 1, rows=4, damping="kernel_min", preconditioner=None)
    with pytest.raises(ValueError, match="preconditioner='auto'"):
        run.step()


@pytest.mark.parametrize("damping", ["residual", "kernel_min"])
def test_memory_of_the_rules_survives_a_checkpoint(damping: str) -> None:
    options = {"damping": damping, "curvature": "gauss_newton", "lr": 0.3, "scaling": None}
    straight = Regression(2, 20, 1, rows=6, **options)
    straight.step(3)
    resumed = Regression(2, 20, 1, rows=6, model=copy.deepcopy(straight.model), **options)
    resumed.optimizer.load_state_dict(copy.deepcopy(straight.optimizer.state_dict()))
    for run in (straight, resumed):
        run.step(2)
    assert resumed.optimizer.last_step == straight.optimizer.last_step
    fresh = Regression(2, 20, 1, rows=6, model=copy.deepcopy(straight.model), **options)
    fresh.step()
    straight.step()
    if damping == "residual":
        assert fresh.optimizer.last_step.damping > straight.optimizer.last_step.damping


def test_residual_following_is_an_exact_newton_step_of_that_damping() -> None:
    run = Regression(2, 20, 1, rows=6, damping=ResidualFollowing(2.0), lr=0.5)
    losses = []
    for _ in range(5):
        run.step()
        losses.append(run.optimizer.last_step.loss)
        expected = 2.0 * math.sqrt(losses[-1] / losses[0])
        assert run.optimizer.last_step.damping == pytest.approx(expected)


# Undamped Gauss-Newton.


def test_undamped_gauss_newton_is_the_least_squares_step() -> None:
    run = Regression(1, 3, 1, rows=30, damping=0.0, curvature="gauss_newton", lr=0.5)
    J, residual = run.rows(), run.residual()
    before = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])
    run.step()
    after = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])
    expected = torch.linalg.lstsq(J, -residual[:, None], driver="gelsd").solution[:, 0]
    assert_close(after - before, 0.5 * expected, 1e-9)


@pytest.mark.parametrize("hook", [False, True])
def test_undamped_gauss_newton_with_more_parameters_is_the_shortest_step(hook: bool) -> None:
    run = Regression(2, 20, 1, rows=6, damping=0.0, curvature="gauss_newton")
    J, residual = run.rows(), run.residual()
    extra = J.T @ randn(6, seed=5) if hook else torch.zeros(J.shape[1])
    space = function_space(find_residuals(run.loss()), list(run.model.parameters()))
    assert space is not None
    assert space.dual
    step = least_squares_step(space, J.T @ residual + extra)
    expected = -torch.linalg.pinv(J) @ residual - torch.linalg.pinv(J.T @ J, rtol=1e-12) @ extra
    assert_close(step, expected, 1e-8)


def test_undamped_gauss_newton_does_not_see_a_scaling() -> None:
    points = []
    for scaling in (None, "jacobian"):
        run = Regression(
            1, 2, 1, rows=30, damping=0.0, curvature="gauss_newton", lr=0.1, scaling=scaling
        )
        run.step(3)
        points.append(torch.cat([p.detach().reshape(-1) for p in run.model.parameters()]))
    assert_close(points[1], points[0], 1e-8)


def test_kernel_min_follows_the_scaled_kernel_where_the_step_is_scaled() -> None:
    run = Regression(
        2, 20, 1, rows=6, damping="kernel_min", curvature="gauss_newton", scaling="jacobian", lr=0.5
    )
    start = run.loss().item()
    run.step(10)
    # By a half at each step's slowest mode: the residual falls at least by 3/4, its square by 9/16.
    assert run.loss().item() < 1.5 * (9 / 16) ** 10 * start


def test_undamped_gauss_newton_cuts_at_the_rank() -> None:
    # Both weights multiply the same input: only their sum matters, and J has rank one.
    a, b = (nn.Parameter(torch.tensor([v])) for v in (1.0, 3.0))
    x = randn(9)
    optimizer = RegNewton([a, b], damping=0.0, curvature="gauss_newton")
    optimizer.step(closure_of(optimizer, lambda: ((a + b) * x - 6 * x).square().mean()))
    assert a.item() == pytest.approx(2.0)
    assert b.item() == pytest.approx(4.0)
    assert optimizer.last_step.loss_after < 1e-25


def test_undamped_gauss_newton_solves_for_what_a_hook_adds_to_the_gradient() -> None:
    run = Regression(1, 2, 1, rows=30, damping=0.0, curvature="gauss_newton")
    J, residual = run.rows(), run.residual()
    extra = 1e-2 * randn(J.shape[1], seed=5)
    params = list(run.model.parameters())

    def closure() -> Tensor:
        run.optimizer.zero_grad()
        value = run.loss()
        value.backward()
        for p, e in zip(params, extra.split([p.numel() for p in params]), strict=True):
            if p.grad is not None:  # a trial of the step withholds its gradient
                p.grad += e.view_as(p)
        return value

    before = torch.cat([p.detach().reshape(-1) for p in params])
    run.optimizer.step(closure)
    move = torch.cat([p.detach().reshape(-1) for p in params]) - before
    expected = -torch.linalg.solve(J.T @ J, J.T @ residual + extra)
    assert_close(move, expected, 1e-7)


def test_undamped_gauss_newton_warns_outside_its_regime_once() -> None:
    run = Regression(2, 20, 1, rows=6, damping=0.0, curvature="gauss_newton", lr=0.1)
    with pytest.warns(UserWarning, match="fewer parameters than residuals"):
        run.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.step()


def test_undamped_gauss_newton_within_its_regime_is_silent() -> None:
    run = Regression(1, 3, 1, rows=30, damping=0.0, curvature="gauss_newton", lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.step(3)


def test_undamped_gauss_newton_needs_a_loss_of_residuals() -> None:
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = RegNewton([x], damping=0.0, curvature="gauss_newton")
    with pytest.raises(ClosureError, match="hessian"):
        optimizer.step(closure_of(optimizer, lambda: x.exp().sum()))
