"""Function space where the Jacobian leaves out the parameters of one layer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.graph.unreadable import TWICE, Use, custom, fit, normalised
from tests.helpers import Problem, assert_close, closure_of
from torch_newton import RegNewton, conjugate_gradient, damped, find_residuals, gradient
from torch_newton.graph.guard import UnreadableGraphWarning
from torch_newton.preconditioners import cost
from torch_newton.preconditioners.function_space import FunctionSpace, function_space
from torch_newton.preconditioners.sampled_rows import sampled_space
from torch_newton.preconditioners.scaling import Scaling
from torch_newton.step import Path

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore::torch_newton.graph.guard.UnreadableGraphWarning"),
]

LEFT_OUT = 144
ROWS = {"dual": 260, "primal": 400}
"""Fewer and more than there are parameters, which are 193."""


def space_of(problem: Problem) -> tuple[FunctionSpace, Tensor, Tensor]:
    """The function space, with gradient and Gauss-Newton matrix of the whole loss."""
    value = problem.value()
    g = gradient(value, problem.params)
    space = function_space(find_residuals(value), problem.params, g)
    assert space is not None
    return space, g, problem.gauss_newton()


def dense_inverse(space: FunctionSpace, G: Tensor, damping: float) -> Tensor:
    """The read block's damped inverse, and 1 / (tau + lambda) for what is left out."""
    assert space.shift is not None
    expected = torch.zeros_like(G)
    expected[LEFT_OUT:, LEFT_OUT:] = G[LEFT_OUT:, LEFT_OUT:]
    return torch.linalg.inv(expected + torch.diag(space.shift + damping))


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("use", TWICE)
def test_the_damped_inverse_is_that_of_the_dense_formula(use: Use, form: str) -> None:
    space, g, G = space_of(fit(use, ROWS[form]))
    assert space.dual == (form == "dual") or ROWS[form] > space.size
    assert space.shift is not None
    tau = float(space.shift[0])
    assert tau > 0
    assert torch.equal(space.shift, torch.tensor([tau] * LEFT_OUT + [0.0] * (len(g) - LEFT_OUT)))
    for damping in (1e-2, 1.0):
        expected = dense_inverse(space, G, damping)
        assert_close(space.at(damping).operator().dense(), expected, 1e-10)
        assert_close(space.at(damping).step(g)[0], -expected @ g, 1e-9)
    three = space.times(3.0).at(0.9).operator().dense()
    assert_close(three, dense_inverse(space, G, 0.1) / 9, 1e-9)
    scaling = Scaling.of(space.jacobian, space.shift)
    e, identity = scaling.vector, torch.eye(len(g))
    whole = torch.linalg.inv(dense_inverse(space, G, 1.0)) - identity
    expected = torch.linalg.inv(e[:, None] * whole * e + 0.1 * identity)
    assert_close(space.scaled(scaling).at(0.1).operator().dense(), expected, 1e-9)


def test_tau_is_the_trace_in_the_mean() -> None:
    estimates, traces = [], []
    for seed in range(40):
        space, _, G = space_of(fit(custom, 260, seed=10 * seed))
        assert space.shift is not None
        estimates.append(float(space.shift[0]))
        traces.append(float(G[:LEFT_OUT, :LEFT_OUT].trace()))
    # One estimate is off by up to sqrt(2) of the trace (rank one), 40 by 1 / sqrt(20) of it.
    assert sum(estimates) == pytest.approx(sum(traces), rel=0.5)


@pytest.mark.parametrize("use", TWICE)
def test_the_preconditioned_solve_of_the_whole_matrix_converges(use: Use) -> None:
    problem = fit(use, 260)
    space, g, G = space_of(problem)
    A = damped(find_residuals(problem.value()).gauss_newton(problem.params), 1e-3)
    expected = torch.linalg.solve(G + 1e-3 * torch.eye(len(g)), g)
    plain = conjugate_gradient(A, g, tol=1e-10, max_iter=2000)
    found = conjugate_gradient(A, g, space.at(1e-3).operator(), tol=1e-10, max_iter=2000)
    assert_close(found.x, expected, 1e-7)
    assert found.iterations < plain.iterations


@pytest.mark.parametrize("scaling", [None, "jacobian"])
def test_a_step_is_that_of_the_whole_matrix(scaling: str | None) -> None:
    problem = fit(normalised, 260)
    space, g, G = space_of(problem)
    D = torch.ones(len(g))
    if scaling == "jacobian":
        D = Scaling.of(space.jacobian, space.shift).vector ** -2
        assert space.shift is not None
        assert_close(D[:LEFT_OUT], space.shift[:LEFT_OUT] / LEFT_OUT)
    before = torch.cat([p.detach().reshape(-1) for p in problem.params])
    optimizer = RegNewton(
        problem.params, damping=0.1, curvature="gauss_newton", scaling=scaling, cg_tol=1e-12
    )
    optimizer.step(closure_of(optimizer, problem.value))
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.FUNCTION_SPACE
    move = torch.cat([p.detach().reshape(-1) for p in problem.params]) - before
    assert_close(move, -torch.linalg.solve(G + 0.1 * torch.diag(D), g), 1e-9)


def trained(
    use: Use, seed: int, products: int, preconditioner: str | None
) -> tuple[list[float], RegNewton]:
    problem = fit(use, 300, seed)
    optimizer = RegNewton(problem.params, curvature="gauss_newton", preconditioner=preconditioner)
    closure, spent = closure_of(optimizer, problem.value), 0
    losses = []
    while spent < products:
        losses.append(float(optimizer.step(closure)))
        assert optimizer.last_step is not None
        spent += optimizer.last_step.products
    return [*losses, float(problem.value().detach())], optimizer


@pytest.mark.parametrize("use", TWICE)
def test_training_gets_further_than_without_a_preconditioner(use: Use) -> None:
    """Twice as far at equal products, in the geometric mean of three networks."""
    gain = 0.0
    for seed in range(3):
        plain, _ = trained(use, seed, 300, None)
        losses, optimizer = trained(use, seed, 300, "auto")
        assert optimizer.last_step is not None
        assert optimizer.last_step.path is Path.FUNCTION_SPACE
        assert optimizer.last_step.jacobian == "BLOCKS"
        assert len(optimizer.last_step.unread) == 1
        assert TWICE[use] in optimizer.last_step.unread[0]
        assert all(after <= before for before, after in itertools.pairwise(losses))
        gain += math.log(plain[-1] / losses[-1]) / 3
    assert gain > math.log(2)


def test_the_user_is_told_which_layer_and_operation() -> None:
    with pytest.warns(UnreadableGraphWarning, match=r"0 of shape \(12, 12\) \(CubedBackward\)"):
        trained(custom, 0, 1, "auto")


@pytest.mark.parametrize("use", TWICE)
def test_a_sample_of_the_rows_leaves_out_the_same(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = fit(use, 300)
    space, g, _ = space_of(problem)
    sampled = sampled_space(find_residuals(problem.value()), problem.params, g, 50)
    assert sampled is not None
    assert sampled.shift is not None
    inverse = sampled.at(0.1).dense()
    expected = torch.eye(len(g))[:LEFT_OUT] / (space.at(0.1).space.shift[0] + 0.1)  # type: ignore[index]
    assert_close(inverse[:LEFT_OUT], expected)
    monkeypatch.setattr(cost, "worth_a_factor", lambda *args, **options: False)
    G = problem.gauss_newton()
    before = torch.cat([p.detach().reshape(-1) for p in problem.params])
    optimizer = RegNewton(
        problem.params, damping=0.1, curvature="gauss_newton", scaling=None, cg_tol=1e-12
    )
    optimizer.step(closure_of(optimizer, problem.value))
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.LOW_RANK
    move = torch.cat([p.detach().reshape(-1) for p in problem.params]) - before
    assert_close(move, -torch.linalg.solve(G + 0.1 * torch.eye(len(g)), g), 1e-9)
