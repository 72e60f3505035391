"""Steps solved iteratively with a factor of low rank, against dense solves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import closure_of, mlp, randn
from tests.trust.test_memory import peak_numbers
from torch_newton import Path, RegNewton, Step, find_residuals, hessian
from torch_newton.closure.surrogate import Surrogate
from torch_newton.curvature.linearization import Linearization
from torch_newton.linalg.operators import LinearOperator
from torch_newton.linalg.solution import Solution
from torch_newton.newton import quadratic_model
from torch_newton.newton.counting import Counter, counted
from torch_newton.newton.quadratic_model import QuadraticModel
from torch_newton.newton.trust_region import ENERGY
from torch_newton.preconditioners import correction, cost
from torch_newton.preconditioners import low_rank as low_rank_module
from torch_newton.preconditioners.linearized_loss import LinearizedLoss, linearize
from torch_newton.preconditioners.low_rank import LowRankSpace
from torch_newton.preconditioners.scaling import Scaling

pytestmark = pytest.mark.usefixtures("float64")

X, Y = randn(80, 2, seed=1), randn(80, 1, seed=2)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(2, 9, 7, 1)


def loss_of(net: nn.Module) -> Tensor:
    return F.mse_loss(net(X), torch.sin(3 * X.sum(1, keepdim=True)) + 0.1 * Y)


def read(net: nn.Module | None = None) -> LinearizedLoss:
    net = network() if net is None else net
    found = linearize(find_residuals(loss_of(net)), list(net.parameters()), None)
    assert found is not None
    return found


def gradient_of(net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss_of(net), list(net.parameters()))
    return torch.cat([grad.reshape(-1) for grad in grads])


def iterative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "worth_a_factor", lambda *args, **options: False)


@pytest.mark.parametrize("damping", [1e-1, 1e-4, 1e-9])
def test_the_preconditioner_is_symmetric_positive_definite(damping: float) -> None:
    M = LowRankSpace.of(read()).operator(damping).dense()
    torch.testing.assert_close(M, M.T)
    assert float(torch.linalg.eigvalsh(M)[0]) > 0


def test_of_full_rank_it_is_the_inverse() -> None:
    space = LowRankSpace.of(read())
    while space.cholesky.extend():
        pass
    J, inverse = space.jacobian.dense(), space.at(1e-3)
    A = J.T @ J + 1e-3 * torch.eye(J.shape[1])
    torch.testing.assert_close(inverse.operator().dense() @ A, torch.eye(len(A)), rtol=0, atol=1e-6)
    e = randn(80, seed=4)
    expected = -torch.linalg.solve(A, J.T @ e)
    torch.testing.assert_close(inverse.correction(e), expected, rtol=1e-5, atol=1e-5)
    K = J @ J.T
    dimension = float(torch.linalg.solve(K + 1e-3 * torch.eye(80), K).trace())
    assert inverse.effective_dimension == pytest.approx(dimension)


def test_the_rank_grows_as_the_damping_falls_and_covers_the_effective_dimension() -> None:
    space = LowRankSpace.of(read())
    found = [space.at(damping) for damping in (1e3, 1e-1, 1e-3, 1e-6)]
    ranks = [inverse.rank for inverse in found]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1]
    assert all(inverse.rank >= inverse.effective_dimension for inverse in found)
    assert space.at(1e-3).rank == ranks[-1]  # no columns are given up within a step


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_that_of_the_dense_system(
    curvature: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = []
    for low_rank in (False, True):
        if low_rank:
            iterative(monkeypatch)
        net = network().to(dtype)
        before = nn.utils.parameters_to_vector(net.parameters()).detach()
        optimizer = RegNewton(
            net.parameters(), damping=2.0 if curvature == "hessian" else 1e-2, curvature=curvature
        )
        x, y = X.to(dtype), torch.sin(3 * X.sum(1, keepdim=True)).to(dtype)
        optimizer.step(closure_of(optimizer, lambda net=net, x=x, y=y: F.mse_loss(net(x), y)))
        moves.append(nn.utils.parameters_to_vector(net.parameters()).detach() - before)
        assert optimizer.last_step is not None
        assert (optimizer.last_step.path is Path.LOW_RANK) is low_rank
    tolerance = 1e-6 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(moves[1], moves[0], rtol=0, atol=tolerance * float(moves[0].norm()))


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_a_scaled_step_is_that_of_the_dense_system(
    curvature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Steps with lambda D were refused where rows are too many for an exact factor.
    net, damping = network(), 30.0
    found = read(net)
    D = Scaling.of(found.jacobian).vector ** -2
    params = list(net.parameters())
    exact = curvature == "hessian"
    A = (hessian(loss_of(net), params) if exact else found.jacobian.normal()).dense()
    before = nn.utils.parameters_to_vector(params).detach()
    g = gradient_of(net)
    iterative(monkeypatch)
    options = {"curvature": curvature, "scaling": "jacobian", "cg_tol": 1e-12}
    optimizer = RegNewton(params, damping=damping, **options)
    optimizer.step(closure_of(optimizer, lambda: loss_of(net)))
    step = optimizer.last_step
    assert step is not None
    assert step.system.scaled
    # In scaled variables the Hessian is indefinite here, and solved by minimum residuals.
    assert step.path is (Path.INDEFINITE if exact else Path.LOW_RANK)
    move = nn.utils.parameters_to_vector(params).detach() - before
    expected = torch.linalg.solve(A + damping * torch.diag(D), -g)
    torch.testing.assert_close(move, expected, rtol=0, atol=1e-9 * float(expected.norm()))


def test_an_adaptive_scaled_step_is_close_to_the_dense_one_and_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iterative(monkeypatch)
    net = network()
    found = read(net)
    J, D = found.jacobian.dense(), Scaling.of(found.jacobian).vector ** -2
    before = nn.utils.parameters_to_vector(net.parameters()).detach()
    optimizer = RegNewton(
        net.parameters(), curvature="gauss_newton", scaling="jacobian", correction=False
    )
    optimizer.step(closure_of(optimizer, lambda: loss_of(net)))
    step = optimizer.last_step
    assert step is not None
    assert step.accepted
    assert step.rank > 0
    move = nn.utils.parameters_to_vector(net.parameters()).detach() - before
    A = J.T @ J + step.damping * torch.diag(D)
    best = -torch.linalg.solve(A, J.T @ found.target)
    error = move - best
    assert float(error @ A @ error) <= 0.01 * float(best @ A @ best)
    assert optimizer._memory.pivots


@pytest.mark.parametrize("scaled", [False, True])
def test_a_correction_is_that_of_the_dense_system_for_groups_of_several_lr(
    scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    found = read(net)
    params, rows = list(net.parameters()), LowRankSpace.of(found)
    scaling = Scaling.of(found.jacobian) if scaled else None
    monkeypatch.setattr(low_rank_module, "CORRECTED_TO", 1e-10)
    monkeypatch.setattr(correction, "LONGEST", 1e9)
    J, t = found.jacobian.dense(), found.target
    g, A = J.T @ t, found.jacobian.normal()
    model = QuadraticModel(g, A, None, scaling=scaling, path=Path.LOW_RANK, low_rank=rows)
    proposal = model.truncated_step(0.5, 1e-12, 200)
    rates = torch.cat([torch.full((p.numel(),), 0.1 + 0.3 * i) for i, p in enumerate(params)])
    d = rates * proposal.directions[0]
    D = torch.ones(len(d)) if model.scaling is None else model.scaling.vector**-2
    expected = torch.linalg.solve(J.T @ J + 0.5 * torch.diag(D), -g)
    torch.testing.assert_close(proposal.directions[0], expected, rtol=1e-8, atol=1e-10)
    point = nn.utils.parameters_to_vector(params).detach()
    nn.utils.vector_to_parameters(point + d, params)
    loss = loss_of(net)
    target = found.target_at(loss)
    assert target is not None
    corrected = model.corrected(proposal, d, loss)
    assert corrected is not None
    e = target - t - J @ d
    c = -torch.linalg.solve(J.T @ J + 0.5 * torch.diag(D), J.T @ e)
    assert float(c.norm()) > 1e-6 * float(d.norm())
    torch.testing.assert_close(corrected - d, c, rtol=0, atol=1e-6 * float(c.norm()))


def test_an_adaptive_step_has_a_hundredth_of_the_energy_error_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iterative(monkeypatch)
    net = network()
    J, target = (found := read(net)).jacobian.dense(), found.target
    before = nn.utils.parameters_to_vector(net.parameters()).detach()
    optimizer = RegNewton(net.parameters(), curvature="gauss_newton", correction=False)
    optimizer.step(closure_of(optimizer, lambda: loss_of(net)))
    step = optimizer.last_step
    assert step is not None
    assert step.accepted
    move = nn.utils.parameters_to_vector(net.parameters()).detach() - before
    A = J.T @ J + step.damping * torch.eye(J.shape[1])
    best = -torch.linalg.solve(A, J.T @ target)
    error = move - best
    assert float(error @ A @ error) <= 0.01 * float(best @ A @ best)
    assert step.rank > 0
    assert 0 < step.effective_dimension <= step.rank


def test_late_steps_are_solved_no_further_than_a_step_gains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They took ever more iterations as the gradient fell, for digits that no step could use."""
    iterative(monkeypatch)
    solved, asked = quadratic_model.conjugate_gradient, []

    def asking(*args: object, tol: float, **options: object) -> Solution:
        asked.append(tol)
        return solved(*args, tol=tol, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(quadratic_model, "conjugate_gradient", asking)
    for tol, expected in ((None, ENERGY), (1e-6, 1e-6)):
        net = network()
        optimizer = RegNewton(net.parameters(), curvature="gauss_newton", cg_tol=tol)
        closure = closure_of(optimizer, lambda net=net: loss_of(net))
        optimizer.step(closure)
        memory = optimizer._memory
        long_ago = {
            name: replace(known, first_gradient_norm=1e8 * known.first_gradient_norm)
            for name, known in memory.systems.items()
        }
        optimizer._memory = replace(memory, systems=long_ago)
        asked.clear()
        optimizer.step(closure)
        assert set(asked) == {expected}


def trained(steps: int, **options: object) -> tuple[RegNewton, list[Step]]:
    net, found = network(), []
    optimizer = RegNewton(net.parameters(), **options)  # type: ignore[arg-type]
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, lambda: loss_of(net)))
        assert optimizer.last_step is not None
        found.append(optimizer.last_step)
    return optimizer, found


def test_an_exact_step_starts_at_the_gauss_newton_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes few products with the Hessian, as it does where there is a factor."""
    moves, taken = [], []
    hessian = Linearization.hessian

    def counting(at: Linearization) -> LinearOperator:
        counter = Counter()
        taken.append(counter)
        return counted(hessian(at), counter)

    monkeypatch.setattr(Linearization, "hessian", counting)
    for low_rank in (False, True):
        if low_rank:
            iterative(monkeypatch)
        net = network()
        before = nn.utils.parameters_to_vector(net.parameters()).detach()
        optimizer = RegNewton(net.parameters(), curvature="hessian", scaling=None, cg_tol=1e-3)
        optimizer.step(closure_of(optimizer, lambda net=net: loss_of(net)))
        step = optimizer.last_step
        assert step is not None
        assert step.accepted
        moves.append(nn.utils.parameters_to_vector(net.parameters()).detach() - before)
    scale, first, most = 1, 1, 3
    assert taken[1].products <= scale + step.attempts * (first + most)
    assert step.rank > 0
    torch.testing.assert_close(moves[1], moves[0], rtol=0, atol=0.02 * float(moves[0].norm()))


def test_training_gets_as_far_as_with_the_exact_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact = trained(40, curvature="gauss_newton", scaling=None)
    iterative(monkeypatch)
    _, steps = trained(40, curvature="gauss_newton")
    assert steps[-1].loss < 4 * exact[-1].loss
    assert sum(step.corrected for step in steps) > 3
    assert {step.path for step in steps} == {Path.LOW_RANK}


def test_rows_are_kept_for_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    iterative(monkeypatch)
    optimizer, _ = trained(5, curvature="gauss_newton")
    kept = optimizer._memory.pivots
    assert optimizer.last_step is not None
    assert 0 < len(kept) <= optimizer.last_step.rank
    space = LowRankSpace.of(read(), proposed=kept)
    space.at(1e-3)
    assert space.cholesky.pivots[: len(kept)] == list(kept)


def test_fewer_rows_are_kept_where_the_damping_has_risen() -> None:
    space = LowRankSpace.of(read())
    space.at(1e-6)
    many = space.kept
    space.at(1e-1)
    assert len(space.kept) < len(many)
    assert space.kept == many[: len(space.kept)]


def test_no_rows_are_kept_of_a_factor_that_has_too_many() -> None:
    space = LowRankSpace.of(read(), proposed=range(80))
    inverse = space.at(1e-1)
    assert space.cholesky.rank > 4 * (1 + inverse.effective_dimension)
    assert space.kept == ()


def test_a_bound_on_memory_bounds_the_rank_and_is_kept() -> None:
    torch.manual_seed(0)
    net, x = mlp(3, 40, 40, 1), randn(400, 3)
    found = linearize(find_residuals(net(x).square().mean()), list(net.parameters()), None)
    assert found is not None
    numbers = 40 * 400
    held = [
        LowRankSpace.of(found, max_memory=8 * numbers).at(1e-9).rank,
        LowRankSpace.of(found, max_memory=1).at(1e-9).rank,
    ]
    assert held == [20, 0]
    factor = LowRankSpace.of(found, max_memory=8 * numbers)
    rows = numbers_of_rows(found)
    # Beside the factor: a slice of formed rows, what a block draws, and vectors.
    assert peak_numbers(lambda: factor.at(1e-9)) <= numbers + rows + 3 * 2**19


def numbers_of_rows(found: LinearizedLoss) -> int:
    factors = [factor for factor in found.jacobian.factors if factor is not None]
    return sum(f.left.numel() + (0 if f.right is None else f.right.numel()) for f in factors)


def test_a_loss_that_counts_several_times_has_as_large_rows() -> None:
    space = Surrogate(0.0, weight=4.0).low_rank(LowRankSpace.of(read()))
    plain = LowRankSpace.of(read())
    torch.testing.assert_close(space.gauss_newton().dense(), 4 * plain.gauss_newton().dense())
    torch.testing.assert_close(space.target, 2 * plain.target)


def test_parameters_that_are_left_out_get_a_damped_gradient_step() -> None:
    found = read()
    size = found.jacobian.shape[1]
    shift = torch.zeros(size)
    shift[:18] = 5.0
    factors = [None, *found.jacobian.factors[1:]]
    jacobian = type(found.jacobian)(factors, found.jacobian.like, 80)
    M = LowRankSpace.of(replace(found, jacobian=jacobian, shift=shift)).operator(0.1).dense()
    torch.testing.assert_close(M[:18, :18], torch.eye(18) / 5.1)
    assert not bool(M[:18, 18:].any())


@pytest.mark.parametrize("damping", [0.0, 1e-300])
def test_without_damping_it_is_finite(damping: float) -> None:
    M = LowRankSpace.of(read()).operator(damping)
    assert bool((M @ torch.ones(M.shape[0])).isfinite().all())
