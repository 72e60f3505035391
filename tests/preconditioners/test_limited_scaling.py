"""No step under scaled damping moves a tensor much farther than its size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers import assert_close, mlp, randn
from tests.trust.architectures import CASES
from torch_newton import RegNewton, find_residuals
from torch_newton.linalg.normal_equations import normal_matrix
from torch_newton.preconditioners import function_space
from torch_newton.preconditioners.function_space import FunctionSpace
from torch_newton.preconditioners.linearized_loss import linearize
from torch_newton.preconditioners.scaling import FARTHEST, Scaling

pytestmark = pytest.mark.usefixtures("float64")

GROWING = ("LSTM each output", "Lagrangian network", "encoder and decoder")


def scaling() -> Scaling:
    """D of a weight of rank one, of a bias, and of a parameter on which nothing depends."""
    weight = randn(3, seed=1).square() + 0.1, randn(4, seed=2).square() + 0.1
    total = weight[0].sum()
    parts = [(weight[0], weight[1] * total / weight[1].sum()), (randn(3, seed=3).square(),), None]
    return Scaling(parts, [randn(3, 4, seed=4), randn(3, seed=5), randn(2, seed=6)])


def directions(*factors: float) -> list[Tensor]:
    pieces = [f * torch.ones(n) for f, n in zip(factors, (12, 3, 2), strict=True)]
    return [torch.cat(pieces)]


def test_short_steps_leave_it_as_it_is() -> None:
    assert scaling().limited(directions(1, 1, 1)) is None
    assert scaling().limited([]) is None
    assert scaling().limited(directions(1, 1, 1e9)) is None  # which no D holds back


def test_a_step_that_is_not_finite_leaves_it_as_it_is() -> None:
    assert scaling().limited(directions(float("nan"), 1, 1)) is None
    assert scaling().limited(directions(float("inf"), 1, 1)) is None


@pytest.mark.parametrize("tensor", [0, 1])
def test_d_of_a_tensor_that_moves_too_far_is_multiplied_by_a_number(tensor: int) -> None:
    factors = [1.0, 1.0, 1.0]
    factors[tensor] = 1e3 * FARTHEST
    before, after = scaling(), scaling().limited(directions(*factors))
    assert after is not None
    ratio = (before.vector / after.vector).square()
    pieces = torch.split(ratio, [12, 3, 2])
    for number, piece in enumerate(pieces):
        assert_close(piece / piece[0], torch.ones_like(piece))
        assert (float(piece[0]) > 1e4) == (number == tensor)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", GROWING)
def test_no_step_moves_a_tensor_far_beyond_its_size(name: str, seed: int) -> None:
    """Before, the first scaled step of the LSTM moved its gates by a thousand times their size."""
    (case,) = (case for case in CASES if case.name == name)
    torch.manual_seed(seed)
    problem = case.make()
    problem.rewind()
    optimizer = RegNewton(problem.params)
    closure = problem.closure_for(optimizer)
    for _ in range(10):
        before = [p.detach().clone() for p in problem.params]
        whole = rms(torch.cat([p.reshape(-1) for p in before]))
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        if step.system.scaled and not step.corrected:
            for param, start in zip(problem.params, before, strict=True):
                moved = rms(param.detach() - start)
                assert moved <= 1.01 * FARTHEST * max(whole, rms(start))


def rms(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())


def test_a_larger_d_forms_no_other_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows in other variables need no sum over rows again."""
    torch.manual_seed(0)
    net, formed = mlp(2, 4, 1), []
    found = linearize(
        find_residuals(net(randn(60, 2)).square().sum()), list(net.parameters()), None
    )
    assert found is not None
    space = FunctionSpace.of(found)
    assert not space.dual
    first = Scaling.of(space.jacobian)
    larger = first.limited([1e3 * FARTHEST * torch.ones(space.size)])
    assert larger is not None
    before, after, again = (space.scaled(each) for each in (first, larger, larger))
    monkeypatch.setattr(
        function_space, "normal_matrix", lambda J: formed.append(J) or normal_matrix(J)
    )
    expected = again.gram
    assert before.gram.shape == expected.shape
    after.adopt(before, larger.vector / first.vector)
    assert_close(after.gram, expected, 1e-13)
    assert len(formed) == 2
