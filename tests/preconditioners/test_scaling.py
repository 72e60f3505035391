"""Scaled damping: D, the change of variables, and the step that it gives."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers import assert_close, closure_of
from torch_newton import RegNewton, find_residuals
from torch_newton.preconditioners.function_space import FunctionSpace, function_space
from torch_newton.preconditioners.scaling import Scaling

pytestmark = pytest.mark.usefixtures("float64")


def space_of(widths: list[int], rows: int, laplacian: bool, seed: int) -> FunctionSpace:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    net = nn.Sequential(*layers[:-1])
    x = torch.randn(rows, widths[0], requires_grad=laplacian)
    z = net(x)
    if laplacian:
        (g,) = torch.autograd.grad(z.sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g[:, 0].sum(), x, create_graph=True)
        z = h[:, :1] + z
    space = function_space(find_residuals(z.square().mean()), list(net.parameters()))
    assert space is not None
    return space


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_row_and_column_sums_are_those_of_the_diagonal(
    widths: list[int], rows: int, laplacian: bool, seed: int
) -> None:
    if laplacian and len(widths) == 2:
        widths = [*widths, 3]  # a second derivative of something linear is zero
    space = space_of([*widths[:-1], 1], rows, laplacian, seed)
    scaling = Scaling.of(space.jacobian)
    diagonal = space.jacobian.dense().square().sum(0)
    at = 0
    for param, part in zip(scaling.like, scaling.parts, strict=True):
        piece = diagonal[at : at + param.numel()]
        at += param.numel()
        if part is None:
            assert float(piece.abs().max()) == 0.0
        elif len(part) == 1:
            assert_close(part[0], piece, 1e-11)
        else:
            piece = piece.reshape(len(part[0]), len(part[1]))
            assert_close(part[0], piece.sum(1), 1e-11)
            assert_close(part[1], piece.sum(0), 1e-11)


@pytest.mark.parametrize("laplacian", [False, True])
def test_scaled_rows_are_the_rows_times_the_vector(laplacian: bool) -> None:
    space = space_of([2, 5, 4, 1], 7, laplacian, 3)
    scaling = Scaling.of(space.jacobian)
    expected = space.jacobian.dense() * scaling.vector
    assert_close(scaling.apply(space.jacobian).dense(), expected, 1e-12)
    scaled = space.scaled(scaling)
    assert_close(scaled.gram, expected @ expected.T, 1e-12)
    assert_close(scaled.gradient, scaling.vector * space.gradient, 1e-12)


def test_scaled_rows_do_not_depend_on_the_units_of_a_parameter() -> None:
    torch.manual_seed(0)
    w, x = torch.randn(3), torch.randn(6, 3)
    grams = []
    for units in (torch.ones(3), torch.tensor([1e-3, 1.0, 1e4])):
        p = (w / units).requires_grad_()
        loss = (torch.tanh(x @ (p * units)) - 1).square().mean()
        space = function_space(find_residuals(loss), [p])
        assert space is not None
        grams.append(space.scaled(Scaling.of(space.jacobian)).jacobian.dense())
    assert_close(grams[1], grams[0], 1e-10)


def test_the_maximum_never_falls_and_other_forms_begin_anew() -> None:
    one, two = (Scaling.of(space_of([2, 4, 1], 5, False, seed).jacobian) for seed in (0, 1))
    both = two.maximum(one)
    for a, b, c in zip(one.parts, two.parts, both.parts, strict=True):
        assert a is not None
        assert b is not None
        assert c is not None
        for x, y, z in zip(a, b, c, strict=True):
            assert torch.equal(z, torch.maximum(x, y))
    other = Scaling([(torch.ones(1),)] * len(two.parts), two.like)
    for new, kept in zip(two.parts, two.maximum(other).parts, strict=True):
        assert new is not None
        assert kept is not None
        if [len(t) for t in new] != [1]:
            assert all(torch.equal(x, y) for x, y in zip(new, kept, strict=True))
    nothing = Scaling.kept({}, two.like)
    assert two.maximum(nothing).parts == two.parts


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_the_step_solves_with_lambda_times_d(curvature: str) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    x, y = torch.randn(9, 2), torch.randn(9, 1)
    params = list(net.parameters())

    def loss() -> Tensor:
        return (net(x) - y).square().mean()

    space = function_space(find_residuals(loss()), params)
    assert space is not None
    D = Scaling.of(space.jacobian).vector ** -2
    rows = space.jacobian.dense()
    if curvature == "gauss_newton":
        A = rows.T @ rows
    else:

        def at(theta: Tensor) -> Tensor:
            values, start = {}, 0
            for name, p in net.named_parameters():
                values[name] = theta[start : start + p.numel()].reshape(p.shape)
                start += p.numel()
            return (torch.func.functional_call(net, values, (x,)) - y).square().mean()

        theta = torch.cat([p.detach().reshape(-1) for p in params])
        A = torch.func.hessian(at)(theta)
    g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(loss(), params)])
    before = torch.cat([p.detach().reshape(-1) for p in params])
    optimizer = RegNewton(
        params, damping=3.0, curvature=curvature, scaling="jacobian", cg_tol=1e-12
    )
    optimizer.step(closure_of(optimizer, loss))
    move = torch.cat([p.detach().reshape(-1) for p in params]) - before
    assert_close(move, torch.linalg.solve(A + 3.0 * torch.diag(D), -g), 1e-8)


@pytest.mark.parametrize("seed", [0, 2])
def test_a_first_layer_of_high_frequency_is_no_obstacle(seed: int) -> None:
    """Gradients of the first layer are 60 times the others': lambda I holds those back."""
    points = torch.linspace(-1, 1, 80).unsqueeze(1)
    waves = torch.sin(60 * points) * (1 + points)

    def loss_after(steps: int, scaling: str | None) -> float:
        torch.manual_seed(seed)
        first, second = nn.Linear(1, 64), nn.Linear(64, 1)
        params = [*first.parameters(), *second.parameters()]
        optimizer = RegNewton(params, curvature="gauss_newton", scaling=scaling)

        def loss() -> Tensor:
            return (second(torch.sin(60 * first(points))) - waves).square().mean()

        for _ in range(steps):
            optimizer.step(closure_of(optimizer, loss))
        return loss().item()

    assert loss_after(25, "jacobian") < 1e-3 * loss_after(25, None)


def scaled(dtype: torch.dtype) -> Scaling:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    params = list(net.parameters())
    loss = net(torch.linspace(-1, 1, 20, dtype=dtype).reshape(10, 2)).square().mean()
    space = function_space(find_residuals(loss), params)
    assert space is not None
    return Scaling.of(space.jacobian)


def test_d_is_enlarged_for_a_tensor_that_would_move_too_far_and_for_no_other() -> None:
    scaling = scaled(torch.float64)
    first, rest = scaling.like[0].numel(), sum(p.numel() for p in scaling.like[1:])
    assert scaling.limited([torch.full((first + rest,), 1e-3)]) is None
    far = torch.cat([torch.full((first,), 1e3), torch.zeros(rest)])
    larger = scaling.limited([far])
    assert larger is not None
    assert bool((larger.vector[:first] < scaling.vector[:first]).all())
    assert_close(larger.vector[first:], scaling.vector[first:], 1e-12)


@pytest.mark.parametrize(("dtype", "length"), [(torch.float32, 1e20), (torch.float64, 1e150)])
def test_no_excess_makes_d_infinite(dtype: torch.dtype, length: float) -> None:
    scaling = scaled(dtype)
    size = sum(p.numel() for p in scaling.like)
    larger = scaling.limited([torch.full((size,), length, dtype=torch.float64)])
    assert larger is not None
    assert bool((larger.vector > 0).all())
    assert all(bool(part.isfinite().all()) for parts in larger.parts for part in parts or ())


@pytest.mark.parametrize("size", [1e-150, 1e-167, 1e-310, 5e-324])
def test_sums_whose_product_underflows_are_lifted_to_what_counts(size: float) -> None:
    like = [torch.ones(2, 1), torch.ones(3)]
    parts = [(torch.tensor([size, size]), torch.tensor([2 * size])), (torch.ones(3),)]
    D = Scaling(parts, like).vector ** -2
    floor = D.new_tensor(torch.finfo(D.dtype).eps)
    # At least what counts beside the other parameter, which is eps to some power of at most one.
    assert bool((0.99 * floor <= D).all())
    assert bool((D <= 1.01).all())
    assert_close(D[2:], torch.ones(3), 1e-12)
