"""Each problem with a published error is what its source says, and its solution solves it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from examples.networks import mlp
from examples.records.derivatives import forward_laplacian
from examples.records.problem import Problem, Training
from examples.records.problems import PROBLEMS
from torch_newton import RegNewton

BY_NAME = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))
NUMERICAL = {"allen-cahn", "korteweg-de-vries", "kuramoto-sivashinsky", "cavity"}
"""Those whose reference solution is computed: `test_references.py` checks it."""


@pytest.fixture(autouse=True)
def _dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def built(problem: Problem, dtype: torch.dtype | None = None) -> Training:
    torch.set_default_dtype(problem.dtype if dtype is None else dtype)
    torch.manual_seed(0)
    return problem.build(0)


@BY_NAME
def test_rows_parameters_and_scale_are_the_problems(problem: Problem) -> None:
    training = built(problem)
    residuals = training.residuals(training.net, *training.points)
    assert sum(r.numel() for r in residuals) == problem.rows
    assert sum(p.numel() for p in training.net.parameters()) == problem.parameters
    assert {r.dtype for r in residuals} == {problem.dtype}
    loss = sum(w * r.square().mean() for w, r in zip(training.weights, residuals, strict=True))
    assert 1e-3 < float(loss.detach()) < 1e6
    assert 0.1 < training.error() < 10


@BY_NAME
def test_the_exact_solution_has_no_residual(problem: Problem) -> None:
    training = built(problem, torch.float64)
    if training.exact is None:
        assert problem.name in NUMERICAL
        return
    few = tuple(points[:200] for points in training.points)
    for residual in training.residuals(training.exact, *few):
        # Second derivatives of the steep front are of the order of 1e4, and rounded.
        assert residual.abs().max() < 1e-9


@BY_NAME
def test_parameters_are_those_published_or_said_to_differ(problem: Problem) -> None:
    counts = {p.parameters for p in problem.published if p.parameters is not None}
    assert counts <= {problem.parameters + 4, problem.parameters + 8}
    assert all(a.error <= b.error for a, b in itertools.pairwise(problem.published))


@pytest.mark.parametrize("name", ["poisson-2d", "burgers-9216", "helmholtz", "heat-1d"])
def test_a_few_steps_lower_the_error(name: str) -> None:
    training = built(PROBLEMS[name])
    training.points = tuple(points[:300] for points in training.points)
    optimizer = RegNewton(training.net.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = training.loss()
        loss.backward()
        return loss

    before = training.loss().item()
    for _ in range(5):
        optimizer.step(closure)
    assert training.loss().item() < before / 2
    assert optimizer.last_step.unread == ()


def test_a_laplacian_layer_by_layer_is_read_at_once() -> None:
    torch.set_default_dtype(torch.float64)
    net, x = mlp((6, 16, 12, 1)), torch.rand(20, 6)
    optimizer = RegNewton(net.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (forward_laplacian(net, x)[1] + 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.last_step.jacobian == "BLOCKS"
