"""Losses are read by their second derivative in the outputs, however they are written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.graph.losses import BELOW, CLASSES, INNER, INPUTS, ROWS, SPELLINGS, Loss, Y, ce, mse
from tests.helpers import assert_close, closure_of, mlp, problem_of, randn
from torch_newton import RegNewton, UnreadableGraphWarning, find_residuals, gradient
from torch_newton.graph.loss_curvature import output_hessian_root
from torch_newton.kernels.rows import rows_of_loss
from torch_newton.preconditioners.function_space import function_space
from torch_newton.step import Path

pytestmark = pytest.mark.usefixtures("float64")

STEPS = 30


def train(
    model: nn.Module, loss: Callable[[], Tensor], steps: int, params: list[Tensor] | None = None
) -> tuple[list[float], set[Path], RegNewton]:
    """The losses, and the paths that the default steps have taken."""
    optimizer = RegNewton([*model.parameters(), *(params or [])])
    closure = closure_of(optimizer, loss)
    losses, paths = [], set()
    for _ in range(steps):
        losses.append(float(optimizer.step(closure)))
        assert optimizer.last_step is not None
        paths.add(optimizer.last_step.path)
    return [*losses, float(loss().detach())], paths, optimizer


def fitted(loss: Loss) -> tuple[list[float], set[Path], Tensor]:
    model = mlp(2, 16, 3)
    losses, paths, _ = train(model, lambda: loss(model(INPUTS)), STEPS)
    return losses, paths, model(INPUTS).detach()


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_trains_in_function_space_as_the_plain_one_does(name: str) -> None:
    loss, plain = SPELLINGS[name]
    losses, paths, z = fitted(loss)
    assert paths == {Path.FUNCTION_SPACE}
    assert all(before >= after for before, after in pairwise(losses))
    reference, _, _ = fitted(plain)
    # To a factor of ten of what the plain spelling reaches, or to a millionth of its beginning.
    floor = 1e-6 * abs(reference[0])
    assert float(plain(z)) <= max(10 * reference[-1], reference[-1] + floor)


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_curvature_is_the_positive_part_of_the_second_derivative(name: str) -> None:
    """Of a concave function of a sum it is an upper bound, with the same slope."""
    loss, _ = SPELLINGS[name]
    problem = problem_of(mlp(2, 6, 3), INPUTS, loss)
    residuals = find_residuals(problem.value())
    assert residuals.terms
    assert residuals.unrecognised == []
    G = residuals.gauss_newton(problem.params).dense()
    z = problem.outputs(problem.params).detach()
    Q = torch.autograd.functional.hessian(loss, z).reshape(z.numel(), z.numel())
    J = problem.jacobian()
    scale = float(G.abs().max())
    assert float(torch.linalg.eigvalsh(G)[0]) >= -1e-10 * scale
    if name in BELOW | INNER:
        return
    if residuals.clipped:
        values, vectors = torch.linalg.eigh(Q)
        assert_close(G, J.T @ (vectors * values.clamp(min=0)) @ vectors.T @ J, 1e-8)
    elif not any(term.chained for term in residuals.terms):
        assert_close(G, J.T @ Q @ J, 1e-8)
    else:
        assert float(torch.linalg.eigvalsh(G - J.T @ Q @ J)[0]) >= -1e-10 * scale


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_terms_have_the_slope_of_the_loss(name: str) -> None:
    loss, _ = SPELLINGS[name]
    problem = problem_of(mlp(2, 6, 3), INPUTS, loss)
    residuals = find_residuals(problem.value())
    if not residuals.has_whole_slope:
        pytest.skip("a part of this loss has a slope and no positive second derivative")
    slopes = torch.cat([term.gradient.reshape(-1) for term in residuals.terms])
    expected = torch.func.grad(lambda z: loss(z))(problem.outputs(problem.params).detach())
    J = residuals.jacobian(problem.params)
    assert_close(J.T @ slopes, problem.jacobian().T @ expected.reshape(-1), 1e-10)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_saturated_cross_entropy_in_single_precision_stays(classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    labels = torch.arange(60) % classes
    angles = labels.float()
    x = torch.randn(60, 2, dtype=torch.float32) + 6 * torch.stack([angles.cos(), angles.sin()], 1)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, classes)).float()
    losses, paths, _ = train(model, lambda: functional.cross_entropy(model(x), labels), 60)
    assert paths == {Path.FUNCTION_SPACE}
    assert losses[-1] < 1e-6


def test_the_closed_form_of_a_cross_entropy_is_its_second_derivative() -> None:
    z = randn(5, 4, seed=1).requires_grad_()
    weights = randn(4, seed=2).abs()
    loss = functional.cross_entropy(z, CLASSES[:5], weight=weights, label_smoothing=0.2)
    (term,) = find_residuals(2 * loss).terms
    assert term.formula is not None
    Q = term.formula()
    assert Q is not None
    u = randn(5, 4, seed=3)
    assert_close(Q.matvec(u), term.hessian_product()(u))


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 40)])
def test_the_root_of_blocks_along_a_dimension(shape: tuple[int, ...]) -> None:
    """Classes of pixels: z is N x C x H x W, and each pixel is apart from the others."""
    z = randn(*shape, seed=1).requires_grad_()
    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    (term,) = find_residuals(functional.cross_entropy(z, labels)).terms
    root, u = output_hessian_root(term), randn(*shape, seed=2)
    assert root is not None
    assert_close(root.apply(root.apply(u)), term.hessian_product()(u))
    assert_close(root.apply(root.solve(root.apply(u))), root.apply(u))


def test_a_kernel_of_classes_of_pixels() -> None:
    images, labels = randn(2, 1, 8, 5, seed=1), (randn(2, 8, 5, seed=2) > 0).long()
    model = nn.Conv2d(1, 2, 3, padding=1)
    loss = functional.cross_entropy(model(images), labels)
    params = list(model.parameters())
    rows, unrecognised = rows_of_loss(loss, params)
    assert rows is not None
    assert unrecognised == []
    J = rows.weighted.dense()
    assert_close(J.T @ J, find_residuals(loss).gauss_newton(params).dense(), 1e-10)


def test_segmentation_trains_in_function_space() -> None:
    images, labels = randn(2, 1, 8, 5, seed=1), (randn(2, 8, 5, seed=2) > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2, 3, padding=1))
    losses, paths, _ = train(model, lambda: functional.cross_entropy(model(images), labels), 15)
    assert paths == {Path.FUNCTION_SPACE}
    assert losses[-1] < 1e-2 * losses[0]


def test_mean_and_variance_of_two_heads() -> None:
    body, mean, variance = mlp(2, 8, 8), mlp(8, 1, seed=1), mlp(8, 1, seed=2)

    def loss() -> Tensor:
        hidden = body(INPUTS).tanh()
        return functional.gaussian_nll_loss(
            mean(hidden), Y[:, :1], functional.softplus(variance(hidden)) + 1e-3
        )

    residuals = find_residuals(loss())
    assert len(residuals.terms) == 2
    assert residuals.clipped
    losses, paths, _ = train(nn.ModuleList([body, mean, variance]), loss, STEPS)
    assert paths == {Path.FUNCTION_SPACE}
    assert losses[-1] < -2.5


def test_losses_weighed_by_trained_variances() -> None:
    """Kendall, Gal and Cipolla 2018: exp(-s) L + s for each of two losses, s trained."""
    model, s = mlp(2, 16, 3), torch.zeros(2, requires_grad=True)

    def loss() -> Tensor:
        z = model(INPUTS)
        parts = torch.stack([mse(z), ce(z)])
        return (parts * (-s).exp() + s).sum()

    losses, paths, _ = train(model, loss, 10, [s])
    assert paths == {Path.FUNCTION_SPACE}
    assert all(before >= after for before, after in pairwise(losses))


def test_coefficients_of_a_part_behind_another() -> None:
    """z is behind z.exp(), and both are parts of a loss that is linear in them."""
    problem = problem_of(mlp(2, 4, 3), INPUTS, lambda z: z.exp().mean() - (Y * z).mean() + mse(z))
    residuals = find_residuals(problem.value())
    assert residuals.unrecognised == []
    assert_close(residuals.gauss_newton(problem.params).dense(), problem.gauss_newton(), 1e-10)


def test_what_is_linear_in_outputs_has_a_slope_and_no_curvature() -> None:
    problem = problem_of(mlp(2, 4, 3), INPUTS, lambda z: mse(z) + z.mean())
    value = problem.value()
    residuals = find_residuals(value)
    assert (residuals.unrecognised, residuals.linear) == ([], ["AddmmBackward0"])
    g = torch.cat(
        [p.reshape(-1) for p in torch.autograd.grad(value, problem.params, retain_graph=True)]
    )
    space = function_space(residuals, problem.params, g)
    assert space is not None
    assert space.rest(g) is not None


def test_a_penalty_on_parameters_that_is_not_known_is_said() -> None:
    model = mlp(2, 4, 3)
    decay = sum(param.abs().sum() for param in model.parameters())
    assert set(find_residuals(mse(model(INPUTS)) + decay).unrecognised) == {"AbsBackward0"}


def test_the_target_elsewhere_has_the_weights_of_here() -> None:
    """The root of a mean of squares has the targets of its squares, times a constant."""
    model, other = mlp(2, 4, 3), mlp(2, 4, 3, seed=1)
    params = list(model.parameters())
    here = mse(model(INPUTS)).sqrt()
    space = function_space(find_residuals(here), params)
    assert space is not None
    moved = space.target_at(mse(other(INPUTS)).sqrt())
    assert moved is not None
    ratio = (other(INPUTS) - Y).detach() / (model(INPUTS) - Y).detach()
    assert_close(moved, space.target * ratio.reshape(-1))


def test_what_is_in_the_way_is_named_once() -> None:
    """In last_step, and in one warning."""
    model = mlp(2, 4, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        _, paths, optimizer = train(
            model, lambda: torch.maximum(0.9 * (r := Y - model(INPUTS)), -0.1 * r).mean(), 3
        )
    assert paths == {Path.PLAIN}
    assert optimizer.last_step is not None
    assert optimizer.last_step.unread == ("the loss: MaximumBackward0",)
    messages = [w for w in caught if issubclass(w.category, UnreadableGraphWarning)]
    assert len(messages) == 1
    assert "MaximumBackward0" in str(messages[0].message)


def test_samples_that_interact_are_named() -> None:
    """A softmax over 140 samples: too many numbers interact for a whole matrix."""
    x = randn(140, 2, seed=1)
    model = mlp(2, 4, 1)
    with pytest.warns(UnreadableGraphWarning, match="LogSoftmaxBackward0"):
        _, paths, optimizer = train(model, lambda: -model(x)[:, 0].log_softmax(0)[:5].mean(), 2)
    assert paths == {Path.PLAIN}
    assert optimizer.last_step is not None
    assert "samples interact" in optimizer.last_step.unread[0]


@pytest.mark.parametrize("shape", [(7,), (5, 4), (4, 3, 5)])
def test_the_closed_form_of_a_softmax_along_the_first_dimension(shape: tuple[int, ...]) -> None:
    """Logits of one sample, and a softmax across samples: blocks are not those of samples."""
    z, weights = randn(*shape, seed=1).requires_grad_(), randn(*shape, seed=2).abs()
    (term,) = find_residuals(-(z.log_softmax(0) * weights).sum()).terms
    assert term.formula is not None
    Q, root, u = term.formula(), output_hessian_root(term), randn(*shape, seed=3)
    assert Q is not None
    assert root is not None
    assert_close(Q.matvec(u), term.hessian_product()(u))
    assert_close(root.apply(root.apply(u)), Q.matvec(u))


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("samples", [6, 90])
def test_gauss_newton_of_a_variance_is_exact_however_many_numbers_it_is_of(
    samples: int, dims: tuple[int, ...]
) -> None:
    """For 90 samples of 3 outputs the function space is that of a bound, and preconditions."""
    x, y, damping = randn(samples, 2, seed=1), randn(samples, 3, seed=2), 0.1
    problem = problem_of(mlp(2, 6, 3), x, lambda z: (z - y).var(dims).sum())
    params, g = problem.params, gradient(problem.value(), problem.params)
    optimizer = RegNewton(params, curvature="gauss_newton", damping=damping, cg_tol=1e-12)
    expected = -torch.linalg.solve(
        problem.gauss_newton() + damping * torch.eye(len(g), dtype=g.dtype), g
    )
    start = torch.cat([p.detach().reshape(-1) for p in params])
    optimizer.step(closure_of(optimizer, problem.value))
    moved = torch.cat([p.detach().reshape(-1) for p in params]) - start
    assert_close(moved, expected, 1e-8)
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.FUNCTION_SPACE


def test_there_are_enough_spellings() -> None:
    assert len(SPELLINGS) >= 60
    assert len(INPUTS) == ROWS
