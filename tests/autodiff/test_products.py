from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import (
    Problem,
    assert_close,
    mlp,
    pinn_residual,
    pinn_residual_reference,
    problem_of,
    randn,
    regression,
)
from torch_newton import (
    NotTwiceDifferentiableError,
    SolveError,
    from_dense,
    gauss_newton,
    gradient,
    gradient_and_hessian,
    hessian,
    inverse,
    jacobian,
)
from torch_newton.linalg.flat import flatten

pytestmark = pytest.mark.usefixtures("float64")


def leaf(*shape: int, seed: int) -> Tensor:
    return randn(*shape, seed=seed).requires_grad_()


def unused_parameter() -> Problem:
    problem = regression(2, 4, 1)
    extra = leaf(3, seed=8)
    return Problem(
        [problem.params[0], extra, *problem.params[1:]],
        lambda p: problem.outputs([p[0], *p[2:]]),
        problem.loss,
    )


def frozen_parameters() -> Problem:
    model = mlp(2, 4, 3, 1)
    model[2].requires_grad_(False)
    y = randn(6, 1, seed=4)
    return problem_of(model, randn(6, 2, seed=3), lambda z: nn.functional.mse_loss(z, y))


def linear_in_some_parameters() -> Problem:
    """A sum of outputs: the last layer enters it linearly, its bias with no curvature at all."""
    return problem_of(mlp(2, 4, 2), randn(6, 2, seed=3), lambda z: z.sum())


def linear_in_all_parameters() -> Problem:
    x = randn(5, 3, seed=1)
    return Problem([leaf(3, 2, seed=2)], lambda p: x @ p[0], lambda z: z.mean())


def tied_weights() -> Problem:
    x, y = randn(5, 3, seed=1), randn(5, 3, seed=2)
    return Problem(
        [leaf(3, 4, seed=3)],
        lambda p: torch.tanh(x @ p[0]) @ p[0].T,
        lambda z: nn.functional.mse_loss(z, y),
    )


def convolution() -> Problem:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    labels = torch.tensor([0, 2, 1, 1])
    return problem_of(
        model, randn(4, 1, 4, 4, seed=1), lambda z: nn.functional.cross_entropy(z, labels)
    )


def embedding() -> Problem:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 4), nn.GELU())
    y = randn(4, 4, seed=2)
    tokens = torch.tensor([[0, 1], [1, 1], [3, 0], [2, 1]])  # 4 is never used, 1 often
    return problem_of(model, tokens, lambda z: nn.functional.huber_loss(z, y))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "one hidden layer": lambda: regression(2, 5, 1),
    "two hidden layers, two outputs": lambda: regression(2, 4, 3, 2),
    "unused parameter": unused_parameter,
    "frozen parameters": frozen_parameters,
    "linear in some parameters": linear_in_some_parameters,
    "linear in all parameters": linear_in_all_parameters,
    "tied weights": tied_weights,
    "convolution": convolution,
    "embedding": embedding,
}


@pytest.fixture(params=PROBLEMS, ids=[name.replace(" ", "_") for name in PROBLEMS])
def problem(request: pytest.FixtureRequest) -> Problem:
    torch.manual_seed(0)
    return PROBLEMS[request.param]()


def test_gradient_agrees_with_torch_func(problem: Problem) -> None:
    expected = torch.func.grad(problem.value)([param.detach() for param in problem.params])
    assert_close(gradient(problem.value(), problem.params), flatten(expected), 1e-12)
    both, _ = gradient_and_hessian(problem.value(), problem.params)
    assert_close(both, flatten(expected), 1e-12)
    assert not both.requires_grad


def test_hessian_agrees_with_torch_func(problem: Problem) -> None:
    expected = problem.hessian()
    H = hessian(problem.value(), problem.params)
    assert_close(H.dense(), expected)
    assert_close(H.T.dense(), expected)
    _, H = gradient_and_hessian(problem.value(), problem.params)
    assert_close(H.dense(), expected)


def test_hessian_is_symmetric_to_rounding(problem: Problem) -> None:
    H = hessian(problem.value(), problem.params).dense()
    assert_close(H, H.T, 1e-14)


def test_jacobian_agrees_with_torch_func_in_both_directions(problem: Problem) -> None:
    expected = problem.jacobian()
    J = jacobian(problem.outputs(problem.params), problem.params)
    assert_close(J.dense(), expected)
    assert_close(J.T.dense(), expected.T)


def test_gauss_newton_agrees_with_its_definition(problem: Problem) -> None:
    outputs = problem.outputs(problem.params)
    G = gauss_newton(problem.loss(outputs), outputs, problem.params)
    assert_close(G.dense(), problem.gauss_newton())


def test_products_leave_no_trace_on_the_parameters(problem: Problem) -> None:
    before = [param.detach().clone() for param in problem.params]
    hessian(problem.value(), problem.params).dense()
    assert all(param.grad is None for param in problem.params)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.params, strict=True))


def test_loss_linear_in_the_parameters_has_a_zero_hessian() -> None:
    problem = linear_in_all_parameters()
    H = hessian(problem.value(), problem.params)
    assert torch.equal(H.dense(), torch.zeros(6, 6))


def test_unused_parameter_has_zero_rows_and_columns() -> None:
    problem = unused_parameter()
    H = hessian(problem.value(), problem.params).dense()
    J = jacobian(problem.outputs(problem.params), problem.params).dense()
    rows = slice(problem.params[0].numel(), problem.params[0].numel() + 3)
    assert not H[rows].any()
    assert not H[:, rows].any()
    assert not J[:, rows].any()
    assert not gradient(problem.value(), problem.params)[rows].any()


def test_quadratic_has_the_matrix_it_was_made_of() -> None:
    A = randn(4, 4, seed=1)
    A = A + A.T
    x = leaf(4, seed=2)
    assert_close(hessian(x @ A @ x / 2, [x]).dense(), A, 1e-14)


def test_several_outputs_are_stacked_in_order() -> None:
    problem = regression(2, 4, 2)
    z = problem.outputs(problem.params)
    J = jacobian([z[:, 0], z[:, 1]], problem.params).dense()
    expected = problem.jacobian().view(12, 2, -1).transpose(0, 1).reshape(24, -1)
    assert_close(J, expected)
    parts = [z[:, 0], z[:, 1]]
    loss = parts[0].square().sum() + parts[1].exp().sum()
    Q = torch.diag(torch.cat([torch.full((12,), 2.0), z[:, 1].detach().exp()]))
    assert_close(gauss_newton(loss, parts, problem.params).dense(), expected.T @ Q @ expected)


def test_gauss_newton_of_a_loss_linear_in_the_outputs_is_zero() -> None:
    problem = linear_in_some_parameters()
    outputs = problem.outputs(problem.params)
    assert not gauss_newton(problem.loss(outputs), outputs, problem.params).dense().any()


def test_unused_outputs_have_no_part_in_gauss_newton() -> None:
    problem = regression(2, 4, 1)
    z = problem.outputs(problem.params)
    spare = problem.params[0].sum().exp()
    G = gauss_newton(problem.loss(z), [z, spare], problem.params)
    assert_close(G.dense(), problem.gauss_newton())


def test_pinn_laplacian_loss_agrees_with_torch_func() -> None:
    model, points, forcing = mlp(2, 5, 4, 1), randn(6, 2, seed=3), randn(6, seed=4)
    params = list(model.parameters())
    reference = Problem(
        list(params),
        pinn_residual_reference(model, points, forcing),
        lambda r: r.square().mean(),
    )
    residual = pinn_residual(model, points, forcing)
    loss = residual.square().mean()
    assert_close(loss, reference.value())
    H = hessian(loss, params)
    assert_close(H.dense(), reference.hessian())
    assert_close(jacobian(residual, params).dense(), reference.jacobian())
    assert_close(gauss_newton(loss, residual, params).dense(), reference.gauss_newton())
    # The output bias drops out of every derivative of u.
    assert not H.dense()[-1].any()


def test_scaled_dot_product_attention_names_the_way_out() -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        loss = nn.functional.scaled_dot_product_attention(q, q, q).square().sum()
    with pytest.raises(NotTwiceDifferentiableError, match=r"sdpa_kernel\(SDPBackend.MATH\)"):
        hessian(loss, [q]) @ torch.ones(64)

    with sdpa_kernel(SDPBackend.MATH):
        loss = nn.functional.scaled_dot_product_attention(q, q, q).square().sum()
    Hv = hessian(loss, [q]) @ torch.ones(64)
    (expected,) = torch.autograd.functional.hvp(
        lambda q: (q @ q.mT / 2).softmax(-1).matmul(q).square().sum(), q, torch.ones_like(q)
    )[1:]
    assert_close(Hv, expected.reshape(-1))


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


def test_other_runtime_errors_of_autograd_pass_through() -> None:
    x = leaf(2, seed=0)
    loss = x.square().sum()
    torch.autograd.grad(loss, x)
    with pytest.raises(RuntimeError, match="second time") as caught:
        hessian(loss, [x])
    assert not isinstance(caught.value, NotTwiceDifferentiableError)


def test_graph_without_a_second_derivative_never_gives_a_number() -> None:
    x = leaf(2, seed=0)
    with pytest.raises(RuntimeError, match=r"differentiable|derivative"):
        hessian(_OnceOnly.apply(x).square().sum(), [x]) @ torch.ones(2)


def test_graph_over_changed_parameters_is_refused_by_autograd() -> None:
    x = leaf(3, seed=0)
    H = hessian(x.pow(3).sum(), [x])
    with torch.no_grad():
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="inplace"):
        H @ torch.ones(3)


def test_inverse_of_a_singular_matrix_raises() -> None:
    singular = from_dense(torch.diag(torch.tensor([1.0, 0.0])))
    with pytest.raises(SolveError, match="raise the damping"):
        inverse(singular) @ torch.ones(2)


def test_constant_outputs_have_zero_rows() -> None:
    x = leaf(2, seed=0)
    J = jacobian([2 * x, torch.ones(1), x.sum()[None]], [x]).dense()
    expected = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    assert_close(J, expected)
