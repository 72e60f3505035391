"""Those who watch a step see what it knows, and change nothing."""

import copy
import pickle

import pytest
import torch

from tests.helpers import assert_close, closure_of, mlp, problem_of, randn
from torch_newton import RegNewton

pytestmark = pytest.mark.usefixtures("float64")

X, Y = randn(9, 2, seed=1), randn(9, 1, seed=2)


def run(steps, watch=None, **options):
    net = mlp(2, 5, 1)
    optimizer = RegNewton(net.parameters(), **options)
    if watch is not None:
        optimizer.register_observer(lambda seen: watch(seen, net))
    closure = closure_of(optimizer, lambda: torch.nn.functional.mse_loss(net(X), Y))
    for _ in range(steps):
        optimizer.step(closure)
    return net, optimizer


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_an_observer_sees_the_point_where_the_step_began(curvature):
    seen_steps = []

    def watch(seen, net):
        problem = problem_of(copy.deepcopy(net), X, lambda z: torch.nn.functional.mse_loss(z, Y))
        assert float(seen.loss) == pytest.approx(float(problem.value()))
        if curvature == "hessian":
            assert_close(seen.curvature.dense(), problem.hessian())
        else:
            assert seen.curvature is None
        assert_close(seen.space.gram, seen.space.jacobian.dense() @ seen.space.jacobian.dense().T)
        assert_close(
            seen.space.jacobian.dense().T @ seen.space.jacobian.dense(), problem.gauss_newton()
        )
        assert len(seen.gradient) == sum(p.numel() for p in seen.params)
        seen_steps.append(seen.step)

    watched, optimizer = run(3, watch, curvature=curvature)
    plain, _ = run(3, curvature=curvature)
    for mine, theirs in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [step.iteration for step in seen_steps] == [1, 2, 3]
    assert seen_steps[-1] == optimizer.last_step


def test_an_observer_can_be_removed_and_is_not_copied():
    calls = []
    _, optimizer = run(1)
    handle = optimizer.register_observer(lambda seen: calls.append(seen))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert not other._observers
        other.register_observer(calls.append).remove()
    assert len(optimizer._observers) == 1
    handle.remove()
    assert not optimizer._observers
    assert not calls
