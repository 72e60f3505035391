"""The Jacobian's rows read off the graph, and the solves made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import randn
from torch_newton import RegNewton, find_residuals, gradient
from torch_newton.graph import check, readers
from torch_newton.graph.by_autograd import rows
from torch_newton.graph.ladder import read_jacobian
from torch_newton.graph.loss_curvature import output_hessian_root
from torch_newton.graph.reading import Request, Rung
from torch_newton.graph.use import Use
from torch_newton.graph.views import VIEWS
from torch_newton.preconditioners.function_space import FunctionSpace, function_space
from torch_newton.step import Path

pytestmark = pytest.mark.usefixtures("held")

Problem = tuple[Callable[[], Tensor], list[Tensor]]


def mlp(*widths: int, act: type[nn.Module] = nn.Tanh, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), act()]
    return nn.Sequential(*layers[:-1]).double()


def regression() -> Problem:
    net, x, y = mlp(2, 5, 4, 1), randn(30, 2), randn(30, 1, seed=2)
    return lambda: F.mse_loss(net(x), y), list(net.parameters())


def no_bias() -> Problem:
    net, x, y = mlp(2, 5, 4, 1, bias=False), randn(30, 2), randn(30, 1, seed=2)
    return lambda: F.mse_loss(net(x), y), list(net.parameters())


def several_outputs() -> Problem:
    net, x, y = mlp(2, 5, 3), randn(20, 2), randn(20, 3, seed=2)
    return lambda: (net(x) - y).square().sum() / 7, list(net.parameters())


def cross_entropy() -> Problem:
    net, x = mlp(2, 5, 3), randn(20, 2)
    labels = torch.arange(20) % 3
    return lambda: F.cross_entropy(net(x), labels), list(net.parameters())


def confident_cross_entropy() -> Problem:
    """Second derivatives down to 1e-18, which rounding makes indefinite."""
    net, x = mlp(2, 5, 3), 40 * randn(20, 2)
    labels = torch.arange(20) % 3
    return lambda: F.cross_entropy(30 * net(x), labels), list(net.parameters())


def logits() -> Problem:
    net, x = mlp(2, 5, 1), randn(20, 2)
    labels = (torch.arange(20) % 2).double()
    return lambda: F.binary_cross_entropy_with_logits(net(x)[:, 0], labels), list(net.parameters())


def sequences() -> Problem:
    """Seven operand rows belong to each row of z."""
    net, x, y = mlp(2, 5, 4, 1), randn(10, 7, 2), randn(10, seed=2)
    return lambda: F.mse_loss(net(x).mean((1, 2)), y), list(net.parameters())


def bare_tensors() -> Problem:
    x, y = randn(30, 2), randn(30, seed=2)
    w, b, c = randn(8, 2, seed=3), randn(8, seed=4), randn(8, seed=5)
    params = [p.requires_grad_() for p in (w, b, c)]
    return lambda: (torch.tanh(x @ w.T + b) @ c - y).square().mean(), params


def weight_on_the_left() -> Problem:
    """Samples are columns."""
    x, y, w = randn(3, 20), randn(20, seed=2), randn(4, 3, seed=3).requires_grad_()
    return lambda: (torch.tanh(w @ x).sum(0) - y).square().mean(), [w]


def tied_weights() -> Problem:
    w, x, y = randn(4, 4, seed=3).requires_grad_(), randn(20, 4), randn(20, 4, seed=2)
    return lambda: F.mse_loss(torch.tanh(torch.tanh(x @ w.T) @ w), y), [w]


def laplacian(net: nn.Module, points: Tensor) -> Tensor:
    u = net(points)
    (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    seconds = [
        torch.autograd.grad(slope[:, i].sum(), points, create_graph=True)[0][:, i]
        for i in range(points.shape[1])
    ]
    return torch.stack(seconds).sum(0)


def pinn() -> Problem:
    net, inside, boundary = mlp(2, 6, 5, 1), randn(25, 2), randn(12, 2, seed=2)

    def loss() -> Tensor:
        residual = laplacian(net, inside.clone().requires_grad_()) + 1
        return residual.square().mean() + 100 * net(boundary).square().mean()

    return loss, list(net.parameters())


def pinn_on_one_forward_pass() -> Problem:
    """Each term's rows are sliced out of a pass over all points, as in DeepXDE."""
    net, points = mlp(2, 6, 5, 1), randn(37, 2)

    def loss() -> Tensor:
        x = points.clone().requires_grad_()
        residual = laplacian(net, x)[:25] + 1
        terms = [residual.square().mean(), net(x)[25:].square().mean()]
        return (torch.stack(terms) * torch.tensor([1.0, 100.0], dtype=x.dtype)).sum()

    return loss, list(net.parameters())


def convolution() -> Problem:
    net = nn.Sequential(nn.Conv1d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 1)).double()
    x, y = randn(12, 1, 8), randn(12, 1, seed=2)
    return lambda: F.mse_loss(net(x), y), list(net.parameters())


def small_batch_norm() -> Problem:
    """What mixes samples is few parameters, differentiated one by one."""
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, y = randn(20, 2), randn(20, 1, seed=2)
    return lambda: F.mse_loss(net(x), y), list(net.parameters())


READ = [
    regression, no_bias, several_outputs, cross_entropy, confident_cross_entropy, logits,
    sequences, bare_tensors,
    weight_on_the_left, tied_weights, pinn, pinn_on_one_forward_pass,
    small_batch_norm, convolution,
]  # fmt: skip


def batch_norm() -> Problem:
    net = nn.Sequential(nn.Linear(2, 30), nn.BatchNorm1d(30), nn.Tanh(), nn.Linear(30, 1)).double()
    x, y = randn(20, 2), randn(20, 1, seed=2)
    return lambda: F.mse_loss(net(x), y), list(net.parameters())


def few_parameters() -> Problem:
    b, x, y = randn(3).requires_grad_(), randn(15, seed=3), randn(15, seed=2)
    return lambda: ((torch.atan2(x[:, None], b).sum(1) - y) ** 2).sum(), [b]


NOT_READ = [batch_norm, few_parameters]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def space_of(problem: Problem) -> tuple[FunctionSpace, Tensor, Tensor]:
    """The function space, and the gradient and Gauss-Newton matrix of its residuals, dense."""
    loss, params = problem
    residuals = find_residuals(loss())
    space = function_space(residuals, params)
    assert space is not None
    value = loss()
    grads = torch.autograd.grad(value, params, retain_graph=True)
    g = torch.cat([grad.reshape(-1) for grad in grads])
    return space, g, find_residuals(value).gauss_newton(params).dense()


@pytest.mark.parametrize("make", READ)
def test_rows_read_off_the_graph_are_those_of_autograd(make: Callable[[], Problem]) -> None:
    loss, params = make()
    residuals = find_residuals(loss())
    assert not residuals.unrecognised
    roots = [output_hessian_root(term) for term in residuals.terms]
    request = Request(residuals.terms, params, [r for r in roots if r is not None])
    found = read_jacobian(request).jacobian
    assert found is not None
    J = rows(request, range(len(params))).jacobian.dense()
    scale = float(J.abs().max())
    torch.testing.assert_close(found.dense(), J, rtol=0, atol=1e-13 * scale)
    torch.testing.assert_close(found.gram(), J @ J.T, rtol=0, atol=1e-12 * scale**2)
    v, u = randn(J.shape[1]), randn(J.shape[0], seed=9)
    torch.testing.assert_close(found.matvec(v), J @ v, rtol=1e-11, atol=1e-12 * scale)
    torch.testing.assert_close(found.rmatvec(u), J.T @ u, rtol=1e-11, atol=1e-12 * scale)


@pytest.mark.parametrize("make", [*READ, *NOT_READ])
def test_scaled_rows_make_the_gauss_newton_matrix(make: Callable[[], Problem]) -> None:
    space, _, G = space_of(make())
    J = space.jacobian.dense()
    torch.testing.assert_close(J.T @ J, G, rtol=1e-10, atol=1e-12 * float(G.abs().max()))
    torch.testing.assert_close(space.gauss_newton().dense(), J.T @ J)


@pytest.mark.parametrize("make", [*READ, *NOT_READ])
@pytest.mark.parametrize("damping", [1e-6, 1e-2, 1.0])
def test_step_and_inverse_are_those_of_the_dense_matrix(
    make: Callable[[], Problem], damping: float
) -> None:
    space, g, G = space_of(make())
    damped = G + damping * torch.eye(len(G), dtype=G.dtype)
    inverse = space.at(damping)
    expected = -torch.linalg.solve(damped, g)
    step, image = inverse.step(g)
    torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-8)
    J = space.jacobian.dense()
    torch.testing.assert_close(image, J @ step, rtol=1e-6, atol=1e-8)
    e = randn(space.jacobian.rows, seed=6)
    expected = -torch.linalg.solve(damped, J.T @ e)
    atol = 1e-7 * float(expected.abs().max())
    torch.testing.assert_close(inverse.correction(e), expected, rtol=1e-5, atol=atol)
    v = randn(len(g), seed=7)
    # Woodbury's formula subtracts and divides by the damping: rounding grows as |G| / damping.
    atol = 1e-13 * float(G.abs().max()) / damping * len(G)
    torch.testing.assert_close(damped @ (inverse.operator() @ v), v, rtol=0, atol=atol + 1e-12)


def test_a_gradient_outside_the_rows_is_inverted_too() -> None:
    """As after clipping, or accumulation over batches."""
    space, g, G = space_of(several_outputs())
    other = 0.1 * g + randn(len(g), seed=8)
    damped = G + 0.1 * torch.eye(len(G), dtype=G.dtype)
    step, image = space.at(0.1).step(other)
    expected = -torch.linalg.solve(damped, other)
    torch.testing.assert_close(step, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(image, space.jacobian.matvec(expected), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", NOT_READ)
def test_graphs_that_cannot_be_read_are_reported(make: Callable[[], Problem]) -> None:
    loss, params = make()
    residuals = find_residuals(loss())
    root = output_hessian_root(residuals.terms[0])
    assert root is not None
    reading = read_jacobian(Request(residuals.terms, params, [root], max_rowwise=0))
    assert reading.failure is None
    assert reading.left_out or reading.rung is Rung.COLUMNS
    for i, rung in enumerate(reading.rungs):
        assert (i in reading.obstacles) == (rung in {Rung.COLUMNS, Rung.ROWS, Rung.NONE})


def test_rows_that_mix_samples_are_noticed() -> None:
    net, x, y = mlp(2, 5, 1), randn(12, 2), randn(12, 1, seed=2)
    mixing = randn(12, 12, seed=3)
    loss = F.mse_loss(mixing @ net(x), y)
    residuals = find_residuals(loss)
    root = output_hessian_root(residuals.terms[0])
    assert root is not None
    request = Request(residuals.terms, list(net.parameters()), [root], max_rowwise=0)
    reading = read_jacobian(request)
    assert not {Rung.BLOCKS, Rung.SEARCHED} & set(reading.rungs)
    assert all("mixes samples" in what for what in reading.obstacles.values())


def one_step(problem: Problem, **options: object) -> tuple[Tensor, RegNewton]:
    loss, params = problem
    optimizer = RegNewton(params, **options)  # type: ignore[arg-type]
    before = [p.detach().clone() for p in params]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    pairs = zip(params, before, strict=True)
    return torch.cat([(p.detach() - b).reshape(-1) for p, b in pairs]), optimizer


def agreeing_step(make: Callable[[], Problem], **options: object) -> tuple[Tensor, RegNewton]:
    torch.manual_seed(0)
    return one_step(make(), damping=0.5, cg_tol=1e-12, **options)


SOLVED = [regression, cross_entropy, pinn, convolution]


def scaled(use: Use) -> Use:
    return use if use.operand is None else replace(use, operand=1.5 * use.operand)


def rolled(use: Use) -> Use:
    return use if use.operand is None else replace(use, operand=use.operand.roll(1, 0))


def halved(use: Use) -> Use:
    return replace(use, rows=lambda cotangent: 0.5 * use.rows(cotangent))


def turned(use: Use) -> Use:
    return replace(use, cotangent_is_left=not use.cotangent_is_left)


def shuffled(use: Use) -> Use:
    return replace(use, rows=lambda cotangent: use.rows(cotangent).flip(0))


CORRUPTED = [scaled, rolled, halved, turned, shuffled]


def corrupt(monkeypatch: pytest.MonkeyPatch, change: Callable[[Use], Use]) -> None:
    """Have every reader say something wrong about its operation."""

    def wrong(right: Callable[..., Use | None]) -> Callable[..., Use | None]:
        def reader(*arguments: object) -> Use | None:
            use = right(*arguments)
            return None if use is None else change(use)

        return reader

    for name, right in readers.READERS.items():
        monkeypatch.setitem(readers.READERS, name, wrong(right))


@pytest.mark.parametrize("change", CORRUPTED)
@pytest.mark.parametrize("make", SOLVED)
def test_structure_that_was_read_wrongly_is_found_out(
    make: Callable[[], Problem], change: Callable[[Use], Use], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, params = make()
    value = loss()
    residuals = find_residuals(value)
    roots = [root for term in residuals.terms if (root := output_hessian_root(term)) is not None]
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, params)])
    residuals = find_residuals(loss())
    target = torch.cat(
        [
            root.solve(term.gradient).reshape(-1)
            for term, root in zip(residuals.terms, roots, strict=True)
        ]
    )
    if change is turned and make is convolution:
        pytest.skip("its only matrix is a row")
    corrupt(monkeypatch, change)
    right = rows(Request(residuals.terms, params, roots), range(len(params))).jacobian.dense()
    for known in (None, (target, gradient)):
        reading = read_jacobian(Request(residuals.terms, params, roots, known))
        assert reading.failure is None
        assert reading.jacobian is not None
        assert not reading.left_out
        atol = 1e-12 * float(right.abs().max())
        torch.testing.assert_close(reading.jacobian.dense(), right, rtol=0, atol=atol)
        assert reading.obstacles
        if change in {scaled, rolled, turned}:  # what else is read is right
            assert all("misread" in what or "mixes" in what for what in reading.obstacles.values())
        else:
            assert Rung.BLOCKS not in reading.rungs


@pytest.mark.parametrize("make", SOLVED)
def test_the_direction_does_not_depend_on_the_structure_found(
    make: Callable[[], Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, plain = agreeing_step(make, preconditioner=None)
    found, _ = agreeing_step(make)
    assert plain.last_step is not None
    assert plain.last_step.path in (Path.PLAIN, Path.INDEFINITE)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    with monkeypatch.context() as patch:
        corrupt(patch, scaled)  # found out, and differentiated by autograd instead
        corrupted, _ = agreeing_step(make)
    torch.testing.assert_close(corrupted, expected, rtol=1e-7, atol=1e-10)
    with monkeypatch.context() as patch:
        corrupt(patch, scaled)  # believed: a worse preconditioner of the same system
        patch.setattr(check, "explains", lambda *arguments: True)
        believed, _ = agreeing_step(make)
    torch.testing.assert_close(believed, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("make", SOLVED)
def test_the_gauss_newton_direction_does_not_depend_on_the_structure_found(
    make: Callable[[], Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = agreeing_step(make, curvature="gauss_newton", preconditioner=None)
    found, in_space = agreeing_step(make, curvature="gauss_newton")
    assert in_space.last_step is not None
    assert in_space.last_step.path is Path.FUNCTION_SPACE
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    corrupt(monkeypatch, shuffled)
    corrupted, _ = agreeing_step(make, curvature="gauss_newton")
    torch.testing.assert_close(corrupted, expected, rtol=1e-7, atol=1e-10)


def test_rows_without_residuals_are_checked_too() -> None:
    """The gradient at hand says nothing about rows whose residual is zero."""
    net, x, y = mlp(2, 6, 1), randn(20, 2), randn(20, 1, seed=2)
    params = list(net.parameters())
    y[1:] = net(x)[1:].detach()
    value = F.mse_loss(net(x), y)
    space = function_space(find_residuals(value), params, gradient(value, params))
    assert space is not None
    G = find_residuals(value).gauss_newton(params).dense()
    J = space.jacobian.dense()
    torch.testing.assert_close(J.T @ J, G, rtol=1e-10, atol=1e-12)


def test_weight_decay_in_the_loss_is_left_to_the_exact_hessian() -> None:
    net, x, y = mlp(2, 6, 1), randn(20, 2), randn(20, 1, seed=2)
    params = list(net.parameters())

    def loss() -> Tensor:
        return F.mse_loss(net(x), y) + 1e-2 * sum(p.square().sum() for p in params)

    space = function_space(find_residuals(loss()), params)
    assert space is not None
    assert space.jacobian.rows == 20
    move, _ = one_step((loss, params), damping=1.0, cg_tol=1e-12, curvature="gauss_newton")
    residuals = find_residuals(loss())
    assert residuals.rows == 20 + sum(p.numel() for p in params)
    assert move.isfinite().all()


def test_it_makes_newton_on_a_wide_network_need_few_iterations() -> None:
    torch.manual_seed(0)
    net = mlp(1, 512, 1)
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    y = torch.sin(6 * x)
    optimizer = RegNewton(net.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.mse_loss(net(x), y)
        value.backward()
        return value

    steps = []
    for _ in range(30):
        optimizer.step(closure)
        assert optimizer.last_step is not None
        steps.append(optimizer.last_step)
    iterations = sorted(step.cg_iterations for step in steps)
    assert all(step.path is Path.FUNCTION_SPACE for step in steps)
    assert iterations[len(iterations) // 2] <= 5
    assert steps[-1].loss_after < 1e-4
    assert all(later.loss <= earlier.loss for earlier, later in itertools.pairwise(steps))


def test_the_private_names_of_autograd_that_are_relied_on_exist() -> None:
    """Fails loudly where a release of PyTorch renames what `graph` and `jacobian` read."""
    x, w, b, c = randn(5, 2), randn(3, 2).requires_grad_(), randn(3).requires_grad_(), randn(3)
    c.requires_grad_()
    linear = F.linear(x, w, b)
    assert linear.grad_fn is not None
    assert linear.grad_fn.name() == "AddmmBackward0"
    for name in ("alpha", "beta", "mat1", "mat2"):
        assert hasattr(linear.grad_fn, f"_saved_{name}")
    product = x @ w.T
    assert product.grad_fn is not None
    assert product.grad_fn.name() == "MmBackward0"
    assert hasattr(product.grad_fn, "_saved_self")
    left = w.T @ c
    assert left.grad_fn is not None
    assert left.grad_fn.name() == "MvBackward0"
    assert hasattr(left.grad_fn, "_saved_self")
    total = product + b
    assert total.grad_fn is not None
    assert total.grad_fn.name() == "AddBackward0"
    assert total.grad_fn._saved_alpha == 1  # type: ignore[attr-defined]
    ends = [edge[0] for edge in linear.grad_fn.next_functions]
    assert ends[0] is not None
    assert ends[0].variable is b  # type: ignore[attr-defined]
    assert ends[2] is not None
    assert ends[2].name() == "TBackward0"
    assert w.T.grad_fn is not None
    assert w.T.grad_fn.name() in VIEWS


def test_single_precision_ends_where_rounding_does_without_an_error() -> None:
    torch.manual_seed(0)
    net = mlp(1, 32, 32, 1).float()
    x = torch.linspace(-1, 1, 40)[:, None]
    y = torch.sin(5 * x)
    for curvature in ("hessian", "gauss_newton"):
        optimizer = RegNewton(net.parameters(), curvature=curvature)

        def closure(optimizer: RegNewton = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = F.mse_loss(net(x), y)
            value.backward()
            return value

        losses = [float(optimizer.step(closure).detach()) for _ in range(150)]
        assert losses[-1] < 1e-5
        assert all(after <= 1.0001 * before for before, after in itertools.pairwise(losses))


def test_a_kernel_of_zeros_is_inverted_without_end() -> None:
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss = ((0.0 * x).sum() - torch.ones(2, dtype=torch.float64)).square().mean()
    space = function_space(find_residuals(loss), [x])
    assert space is not None
    assert space.at(0.0).factor.isfinite().all()


class Remembering(torch.autograd.Function):
    """Twice its input; what it calls `variable` is no parameter that it ends at."""

    @staticmethod
    def forward(ctx, x: Tensor, param: Tensor) -> Tensor:
        ctx.variable = param
        return 2 * x

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:
        return 2 * cotangent, None


def test_a_function_that_keeps_a_variable_is_no_parameter() -> None:
    net, x = mlp(2, 5, 1), randn(20, 2)
    params = list(net.parameters())
    z = Remembering.apply(net(x), params[-1])
    space = function_space(find_residuals(z.square().sum()), params)
    assert space is not None
    expected = find_residuals(z.square().sum()).gauss_newton(params).dense()
    J = space.jacobian.dense()
    torch.testing.assert_close(J.T @ J, expected, rtol=1e-11, atol=1e-12)
