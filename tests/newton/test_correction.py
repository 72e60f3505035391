"""The second-order correction of steps that the ratio test refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torch_newton import RegNewton
from torch_newton.graph.residuals import find_residuals
from torch_newton.newton.quadratic_model import QuadraticModel
from torch_newton.preconditioners.function_space import FunctionSpace, function_space
from torch_newton.preconditioners.scaling import Scaling

pytestmark = pytest.mark.usefixtures("float64")

Loss = Callable[[Tensor], Tensor]


class Net:
    """A small network as a function of its flat parameters, with the rows of its loss."""

    def __init__(self, outputs: int, loss: Loss, rows: int = 7, width: int = 6) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, outputs))
        self.x = torch.randn(rows, 2)
        self.params = list(self.net.parameters())
        self.function = loss
        self.theta = nn.utils.parameters_to_vector(self.params).detach().clone()

    def at(self, direction: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(self.theta + direction, self.params)
        return self.function(self.net(self.x))

    def space(self) -> FunctionSpace:
        space = function_space(find_residuals(self.at(torch.zeros_like(self.theta))), self.params)
        assert space is not None
        return space


def squares(z: Tensor) -> Tensor:
    return (z - 1).square().mean()


def weighted(z: Tensor) -> Tensor:
    return 3 * (z[:, 0] - 1).square().sum() + 0.1 * (z[:, 1] + z[:, 0]).square().mean()


def entropy(z: Tensor) -> Tensor:
    return nn.functional.cross_entropy(z, torch.arange(len(z)) % z.shape[1])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("rows", [7, 60])
@pytest.mark.parametrize(("outputs", "loss"), [(1, squares), (2, weighted), (3, entropy)])
def test_it_is_the_formula(outputs: int, loss: Loss, rows: int, scaled: bool) -> None:
    """d - M^{-1} J^T e with e = t(theta + d) - t - J d and M = J^T J + lambda (I or D), densely."""
    problem, damping = Net(outputs, loss, rows), 0.05
    space = problem.space()
    assert space.dual == (space.jacobian.rows <= space.size)
    scaling = Scaling.of(space.jacobian) if scaled else None
    model = QuadraticModel(space.gradient, space.gauss_newton(), None, space, True, scaling=scaling)
    proposal = model.truncated_step(damping, 0.1, 10)
    scaling = model.scaling  # larger where a tensor would have moved too far
    (d,), (curvature,) = proposal.directions, proposal.curvatures
    J = space.jacobian.dense()
    D = torch.ones(len(d)) if scaling is None else scaling.vector**-2
    M = J.T @ J + damping * torch.diag(D)
    torch.testing.assert_close(d, -torch.linalg.solve(M, space.gradient), rtol=1e-8, atol=1e-10)
    assert curvature == pytest.approx(float((J @ d).square().sum()), rel=1e-9)

    d = 0.3 * d  # a step short enough for the series
    loss_there = problem.at(d)
    target = space.target_at(loss_there)
    assert target is not None
    e = target - space.target - J @ d
    corrected = model.corrected(proposal, d, loss_there)
    assert corrected is not None
    expected = d - torch.linalg.solve(M, J.T @ e)
    torch.testing.assert_close(corrected, expected, rtol=1e-8, atol=1e-10)


def test_the_target_elsewhere_is_that_of_the_loss_there() -> None:
    """For squares Q is the same everywhere, so that the target is simply the residuals."""
    problem = Net(1, squares)
    space = problem.space()
    d = 0.1 * torch.randn_like(problem.theta)
    loss = problem.at(d)
    target = space.target_at(loss)
    assert target is not None
    assert float(target.square().sum()) / 2 == pytest.approx(loss.item(), rel=1e-12)
    problem.x = problem.x[:5]
    assert space.target_at(problem.at(d)) is None
    assert FunctionSpace(space.jacobian, space.target).target_at(loss) is None


def test_what_is_left_of_the_residuals_is_of_third_order() -> None:
    """r(x) = x + x^2 - c at x = 0 has r(d) = c^2 for d = c, and r(d + a) = -2 c^3 + c^4."""
    left = []
    for c in (1e-2, 5e-3):
        x = torch.zeros(1, requires_grad=True)
        loss = (x + x**2 - c).square().sum() / 2
        space = function_space(find_residuals(loss), [x])
        assert space is not None
        model = QuadraticModel(space.gradient, space.gauss_newton(), None, space, True)
        proposal = model.truncated_step(1e-14, 0.1, 10)
        (d,) = proposal.directions
        there = d.clone().requires_grad_()
        corrected = model.corrected(proposal, d, (there + there**2 - c).square().sum() / 2)
        assert corrected is not None
        left.append(float(corrected + corrected**2 - c))
        assert left[-1] == pytest.approx(-2 * c**3 + c**4, rel=1e-4)
    assert left[0] / left[1] == pytest.approx(8, rel=0.02)


def test_a_correction_that_is_long_beside_the_step_is_none() -> None:
    problem = Net(1, squares)
    space = problem.space()
    model = QuadraticModel(space.gradient, space.gauss_newton(), None, space, True)
    proposal = model.truncated_step(1e-8, 0.1, 10)
    (d,) = proposal.directions
    assert model.corrected(proposal, d, problem.at(0.01 * d)) is None


def residuals(x: Tensor) -> Tensor:
    """Of Rosenbrock's function, which is the sum of their squares over two."""
    return 2**0.5 * torch.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])


def rosenbrock(
    lr: float = 1.0, damping: float | str = "auto", correction: bool = True
) -> tuple[RegNewton, Callable[[], Tensor], nn.Parameter]:
    x = nn.Parameter(torch.tensor([-1.2, 1.0]))
    optimizer = RegNewton(
        [x], lr=lr, damping=damping, curvature="gauss_newton", correction=correction
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = residuals(x).square().sum() / 2
        loss.backward()
        return loss

    return optimizer, closure, x


def test_a_refused_step_is_corrected_and_then_compared() -> None:
    """Rosenbrock's valley is where Gauss-Newton steps at small damping go up its walls."""
    optimizer, closure, x = rosenbrock()
    seen = 0
    for _ in range(30):
        before = float(closure().detach())
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        after = float(closure().detach())
        assert after <= before
        if step.accepted:
            assert step.loss_after == after
        assert not step.corrected or step.accepted
        seen += step.corrected
    assert seen > 0
    torch.testing.assert_close(x.detach(), torch.ones(2), rtol=1e-8, atol=1e-8)


def test_there_is_none_under_a_fixed_damping_or_where_it_is_off() -> None:
    """The step of the theory is the solution of its system."""
    optimizer, closure, _ = rosenbrock(damping=1e-8)
    for _ in range(5):
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        assert not step.corrected
        assert step.closure_calls <= 3
    optimizer, closure, _ = rosenbrock(correction=False)
    for _ in range(10):
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        assert not step.corrected
        assert step.closure_calls == step.attempts + 1 + (step.iteration == 1)


def test_at_another_length_the_step_of_that_length_is_corrected() -> None:
    optimizer, closure, x = rosenbrock(lr=0.7)
    seen = 0
    for _ in range(60):
        at = x.detach().clone()
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        if not step.accepted or step.system.scaled:
            continue
        rows = [[-1.0, 0.0], [-20 * float(at[0]), 10.0]]
        J = 2**0.5 * torch.tensor(rows)
        M = J.T @ J + step.damping * torch.eye(2)
        d = -0.7 * torch.linalg.solve(M, J.T @ residuals(at))
        if step.corrected:
            e = residuals(at + d) - residuals(at) - J @ d
            d = d - torch.linalg.solve(M, J.T @ e)
            seen += 1
        torch.testing.assert_close(x.detach() - at, d, rtol=1e-5, atol=1e-8)
    assert seen > 0


@pytest.mark.parametrize("other", [0.0, 0.5])
def test_a_group_of_a_shorter_step_gets_as_much_less_of_a_correction(other: float) -> None:
    y = nn.Parameter(torch.tensor(1.0))
    x = nn.Parameter(torch.tensor(-1.2))
    optimizer = RegNewton(
        [{"params": [x]}, {"params": [y], "lr": other}], curvature="gauss_newton", scaling=None
    )

    def two() -> Tensor:
        optimizer.zero_grad()
        loss = residuals(torch.stack([x, y])).square().sum() / 2
        loss.backward()
        return loss

    lengths, seen = torch.tensor([1.0, other]), 0
    for _ in range(60):
        at = torch.stack([x, y]).detach()
        optimizer.step(two)
        step = optimizer.last_step
        assert step is not None
        if not step.corrected:
            continue
        J = 2**0.5 * torch.tensor([[-1.0, 0.0], [-20 * float(at[0]), 10.0]])
        M = J.T @ J + step.damping * torch.eye(2)
        d = -lengths * torch.linalg.solve(M, J.T @ residuals(at))
        e = residuals(at + d) - residuals(at) - J @ d
        expected = at + d - lengths * torch.linalg.solve(M, J.T @ e)
        torch.testing.assert_close(torch.stack([x, y]).detach(), expected, rtol=1e-5, atol=1e-8)
        seen += 1
    assert seen > 0 or other == 0
    assert y.item() == 1 or other > 0
