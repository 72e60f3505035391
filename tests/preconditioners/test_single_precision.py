"""Single-precision losses whose systems are formed and solved in double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import closure_of, mlp, randn
from torch_newton import RegNewton, find_residuals, gradient
from torch_newton.damping import Fixed
from torch_newton.linalg.factored_jacobian import FactoredJacobian
from torch_newton.preconditioners.correction import smoothed_correction
from torch_newton.preconditioners.damped_inverse import DampedInverse
from torch_newton.preconditioners.function_space import FunctionSpace, function_space
from torch_newton.step import Step

EPSILON = torch.finfo(torch.float32).eps

Case = tuple[Callable[[], Tensor], list[nn.Parameter]]


def regression(rows: int, width: int = 12) -> Case:
    """The network of one hidden layer has P = 4 width + 1."""
    net, x = mlp(2, width, 1).float(), randn(rows, 2).float()
    y = torch.sin(2 * x[:, :1])
    return lambda: F.mse_loss(net(x), y), list(net.parameters())


def cross_entropy(rows: int, width: int = 6) -> Case:
    """P = 6 width + 3, three outputs a sample."""
    net, x = mlp(2, width, 3).float(), randn(rows, 2).float()
    labels = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
    return lambda: F.cross_entropy(net(x), labels), list(net.parameters())


def slope(rows: int, width: int = 12) -> Case:
    """A second derivative in the input, in whose terms digits are lost."""
    net, x = mlp(2, width, 1).float(), randn(rows, 2).float().requires_grad_()

    def loss() -> Tensor:
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g[:, 0].sum(), x, create_graph=True)
        return (h[:, 0] - torch.sin(3 * x[:, 1])).square().mean()

    return loss, list(net.parameters())


CASES = pytest.mark.parametrize(
    "case",
    [
        pytest.param(regression(30), id="regression-dual"),
        pytest.param(regression(300), id="regression-primal"),
        pytest.param(cross_entropy(10), id="cross-entropy-dual"),
        pytest.param(cross_entropy(100), id="cross-entropy-primal"),
        pytest.param(slope(30), id="slope-dual"),
        pytest.param(slope(300), id="slope-primal"),
    ],
)


def space_of(case: Case) -> FunctionSpace:
    loss, params = case[0](), case[1]
    space = function_space(find_residuals(loss), params, gradient(loss, params))
    assert space is not None
    assert space.dtype is torch.float64
    assert space.target.dtype is torch.float64
    return space


@CASES
@pytest.mark.parametrize("relative", [1e-6, 1e-9, 1e-11])
def test_the_damped_step_is_that_of_least_squares_in_double(case: Case, relative: float) -> None:
    """Against QR of the rows on top of the root of lambda I, whose condition is not squared."""
    space = space_of(case)
    J, t = space.jacobian.dense(), space.target
    damping = relative * float(torch.linalg.matrix_norm(J, 2)) ** 2
    d, image = space.at(damping).step(space.gradient)
    stacked = torch.cat([J, damping**0.5 * torch.eye(J.shape[1], dtype=torch.float64)])
    right = torch.cat([-t, t.new_zeros(J.shape[1])])
    expected = torch.linalg.lstsq(stacked, right[:, None], driver="gels").solution[:, 0]
    norm = torch.linalg.vector_norm
    tolerance = 1e-13 / relative  # the normal equations' condition
    assert norm(d - expected) <= tolerance * norm(expected)
    assert norm(J @ (d - expected)) <= tolerance * norm(t)
    assert norm(image - J @ d) <= tolerance * norm(t)


@CASES
def test_a_step_solves_its_system_to_the_parameters_last_digit(case: Case) -> None:
    """(J^T J + lambda I) d = -J^T t for the move that a step makes, with lambda far below epsilon.

    With autograd's gradient, or with a Gram matrix in single precision, it is off by everything.
    """
    loss, params = case
    space = space_of(case)
    damping = 1e-9 * float(torch.linalg.matrix_norm(space.jacobian.dense(), 2)) ** 2
    expected = space.at(damping).step(space.gradient)[0]
    before = torch.cat([p.detach().reshape(-1) for p in params])
    optimizer = RegNewton(params, curvature="gauss_newton", damping=Fixed(damping))
    optimizer.step(closure_of(optimizer, loss))
    after = torch.cat([p.detach().reshape(-1) for p in params])
    with torch.no_grad():
        for p, value in zip(params, before.split([p.numel() for p in params]), strict=True):
            p.copy_(value.view_as(p))
    rounding = EPSILON * (before.abs().max() + expected.abs().max())
    assert float((after - before - expected).abs().max()) <= 2 * float(rounding) + 1e-6 * float(
        expected.abs().max()
    )


def test_damping_falls_below_the_rounding_of_single_precision_and_the_fit_with_it() -> None:
    loss, params = regression(300)
    optimizer = RegNewton(params, curvature="gauss_newton")
    closure = closure_of(optimizer, loss)
    steps: list[Step] = []
    for _ in range(60):
        optimizer.step(closure)
        assert optimizer.last_step is not None
        steps.append(optimizer.last_step)
    assert min(s.damping / s.scale for s in steps) < EPSILON
    assert steps[-1].loss_after < 1e-7


def test_the_hessian_keeps_the_floor_of_its_single_precision_products() -> None:
    loss, params = regression(300)
    optimizer = RegNewton(params, curvature="hessian")
    closure = closure_of(optimizer, loss)
    for _ in range(40):
        optimizer.step(closure)
        assert optimizer.last_step is not None
        assert optimizer.last_step.damping >= 9.9 * EPSILON * optimizer.last_step.scale


@pytest.mark.parametrize("rows", [30, 300])
def test_a_gradient_that_the_closure_clips_is_followed(rows: int) -> None:
    """The step is solved with what is left in .grad, not with J^T t."""
    loss, params = regression(rows)
    optimizer = RegNewton(params, curvature="gauss_newton", damping=Fixed(1e-3))
    before = [p.detach().clone() for p in params]
    space = space_of((loss, params))

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(params, 1e-2)
        return value

    optimizer.step(closure)
    moved = torch.cat([(p.detach() - b).reshape(-1) for p, b in zip(params, before, strict=True)])
    g = torch.cat([p.grad.reshape(-1) for p in params if p.grad is not None])
    assert float(g.norm()) < 1.01e-2
    J = space.jacobian.dense()
    A = J.T @ J + 1e-3 * torch.eye(J.shape[1], dtype=torch.float64)
    expected = -torch.linalg.solve(A, g.double())
    assert float((moved - expected).norm()) <= 1e-4 * float(expected.norm())


def inverse_and_remainder(noise: float) -> tuple[DampedInverse, Tensor, Tensor]:
    """A damped inverse, J d of its step, and a remainder of which so much is rounding."""
    loss, params = slope(300)
    space = space_of((loss, params))
    damping = 1e-10 * float(space.gram.trace())
    inverse = space.at(damping)
    _, image = inverse.step(space.gradient)
    J = space.jacobian
    smooth = J.matvec(J.rmatvec(J.matvec(randn(space.size, seed=3))))
    smooth = smooth * float(image.norm() / smooth.norm()) * 1e-2
    rough = randn(300, seed=4)
    return inverse, image, smooth + noise * rough / rough.norm()


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_correction_is_as_smooth_as_its_gain_allows(noise: float) -> None:
    """It leaves no more of the residuals than a tenth of what the step gains, and is shorter."""
    inverse, image, remainder = inverse_and_remainder(noise)
    space = inverse.space
    found = smoothed_correction(inverse, remainder, image)
    plain = inverse.correction(remainder)
    left = space.target + image + remainder
    gain = float(space.target.square().sum() - (space.target + image).square().sum())
    more = float((left + space.jacobian.matvec(found)).square().sum()) - float(
        (left + space.jacobian.matvec(plain)).square().sum()
    )
    assert more <= 0.1 * gain
    assert float(found.norm()) < (0.5 if noise else 1.0) * float(plain.norm())


def test_in_double_precision_the_correction_is_damped_like_its_step() -> None:
    inverse, image, remainder = inverse_and_remainder(1e-3)
    space = inverse.space
    params = [param.double() for param in space.jacobian.like]
    double = FunctionSpace(
        FactoredJacobian(space.jacobian.factors, params, space.jacobian.rows), space.target
    )
    assert not double.rounded
    again = double.at(inverse.damping)
    found = smoothed_correction(again, remainder, image)
    assert torch.equal(found, again.correction(remainder))
