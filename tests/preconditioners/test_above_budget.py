"""Preconditioners for more rows than function space takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers import mlp, randn, symmetric_with
from torch_newton import RegNewton, find_residuals, from_dense
from torch_newton.linalg.factored_jacobian import FactoredJacobian
from torch_newton.preconditioners import cost
from torch_newton.preconditioners.linearized_loss import linearize
from torch_newton.preconditioners.nystrom import Nystrom, approximation, damped_inverse
from torch_newton.preconditioners.sampled_rows import SampledRows, SampledSpace, sample
from torch_newton.step import Path

pytestmark = pytest.mark.usefixtures("float64")


def fit(rows: int = 60) -> tuple[list[torch.nn.Parameter], Tensor]:
    torch.manual_seed(0)
    net = mlp(2, 7, 5, 1)
    x, y = randn(rows, 2), randn(rows, 1, seed=2)
    return list(net.parameters()), F.mse_loss(net(x), y)


def jacobian(rows: int = 60) -> FactoredJacobian:
    params, loss = fit(rows)
    found = linearize(find_residuals(loss), params, None)
    assert found is not None
    return found.jacobian


def test_squared_norms_and_chosen_rows_are_those_of_the_matrix() -> None:
    found = jacobian()
    J = found.dense()
    torch.testing.assert_close(found.squared_norms(), J.square().sum(1))
    index, scale = torch.tensor([5, 3, 40]), torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(found.take(index, scale).dense(), J[index] * scale[:, None])


def test_the_mean_of_a_sample_is_the_gauss_newton_matrix() -> None:
    found = jacobian()
    J = found.dense()
    G, few, many = J.T @ J, sample(found, 200).dense(), sample(found, 50_000).dense()
    errors = [float((rows.T @ rows - G).norm() / G.norm()) for rows in (few, many)]
    # The error falls as one over the square root of the rows: here by a factor of about 16.
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 5
    assert len(many) <= 60  # a row drawn twice is one row


def test_a_sample_is_the_same_at_each_call() -> None:
    found, state = jacobian(), torch.get_rng_state()
    torch.testing.assert_close(sample(found, 20).dense(), sample(found, 20).dense(), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_approximation_of_full_rank_is_the_inverse() -> None:
    A = symmetric_with([5.0, 3.0, 1.0, 0.2, 0.0, 0.0, 0.0, 0.0])
    values, vectors = approximation(from_dense(A), 6)
    torch.testing.assert_close((vectors * values) @ vectors.T, A, rtol=0, atol=1e-13)
    found = damped_inverse(values, vectors, 0.1).dense()
    torch.testing.assert_close(found, torch.linalg.inv(A + 0.1 * torch.eye(8)))


def test_an_approximation_of_low_rank_has_smaller_eigenvalues() -> None:
    exact = torch.logspace(3, -6, 40)
    values, vectors = approximation(from_dense(symmetric_with(exact)), 10)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(10))
    assert bool((values <= exact[:10] * (1 + 1e-10)).all())
    torch.testing.assert_close(values[:3], exact[:3], rtol=0.05, atol=0)


def test_the_approximation_of_zero_is_zero() -> None:
    values, vectors = approximation(from_dense(torch.zeros(5, 5)), 2)
    assert values.tolist() == [0.0, 0.0]
    assert bool(vectors.isfinite().all())


@pytest.mark.parametrize("preconditioner", [SampledRows(400), Nystrom(20)])
def test_fewer_iterations_to_the_same_step(preconditioner: object) -> None:
    steps, moves = [], []
    for chosen in (None, preconditioner):
        params, _ = fit()
        before = [p.detach().clone() for p in params]
        net_loss = loss_of(params)
        optimizer = RegNewton(
            params,
            damping=1e-3,
            curvature="gauss_newton",
            preconditioner=chosen,  # type: ignore[arg-type]
            cg_tol=1e-10,
        )
        optimizer.step(net_loss)
        assert optimizer.last_step is not None
        steps.append(optimizer.last_step.cg_iterations)
        moves.append(torch.cat([(p - b).reshape(-1) for p, b in zip(params, before, strict=True)]))
    torch.testing.assert_close(moves[1], moves[0], rtol=1e-6, atol=1e-8)
    assert steps[1] < 0.7 * steps[0]


def loss_of(params: list[torch.nn.Parameter]):  # type: ignore[no-untyped-def]
    x, y = randn(60, 2), randn(60, 1, seed=2)

    def closure() -> Tensor:
        hidden = x
        for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
            hidden = torch.tanh(F.linear(hidden, weight, bias))
        return F.mse_loss(F.linear(hidden, *params[-2:]), y)

    return closure


def test_nystrom_has_nothing_to_offer_where_no_term_is_recognised() -> None:
    params, _ = fit()
    assert Nystrom()(torch.exp(params[0].sum()), params) is None


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Nystrom(rank=0)
    with pytest.raises(ValueError, match="at least 1"):
        SampledRows(0)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("damping", [1e-1, 1e-9])
def test_auto_takes_a_factor_of_low_rank_above_the_budget(
    curvature: str, damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(**options: object) -> tuple[Tensor, RegNewton]:
        params, _ = fit()
        before = torch.cat([p.detach().reshape(-1) for p in params])
        optimizer = RegNewton(params, damping=damping, curvature=curvature, **options)  # type: ignore[arg-type]
        optimizer.step(loss_of(params))
        return torch.cat([p.detach().reshape(-1) for p in params]) - before, optimizer

    expected, _ = move()
    monkeypatch.setattr(cost, "worth_a_factor", lambda *args, **options: False)
    found, optimizer = move()
    assert optimizer.last_step is not None
    assert optimizer.last_step.path in (Path.LOW_RANK, Path.INDEFINITE)
    if damping > 1e-3:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert bool(found.isfinite().all())


def test_an_undamped_sample_is_inverted_too() -> None:
    found = jacobian()
    assert bool(
        torch.isfinite(SampledSpace(found, 5).at(0.0) @ torch.ones(found.dense().shape[1])).all()
    )
