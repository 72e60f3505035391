from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

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
from torch_newton import find_residuals, gradient
from torch_newton.graph.residuals import CURVED, LINEAR, NORMS, ROOTS
from torch_newton.preconditioners.function_space import function_space

pytestmark = pytest.mark.usefixtures("float64")

ROWS, COLUMNS = 7, 3
Y = randn(ROWS, COLUMNS, seed=50)
POSITIVE = randn(ROWS, COLUMNS, seed=51).square() + 0.1
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])
PROBABILITIES = randn(ROWS, COLUMNS, seed=52).softmax(1)
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

SQUARES: dict[str, Callable[[Tensor], Tensor]] = {
    "mse_loss": lambda z: functional.mse_loss(z, Y),
    "mse_loss, sum": lambda z: functional.mse_loss(z, Y, reduction="sum"),
    "mse_loss, none, then mean": lambda z: functional.mse_loss(z, Y, reduction="none").mean(),
    "MSELoss module": lambda z: nn.MSELoss()(z, Y),
    "target first": lambda z: functional.mse_loss(Y, z),
    "power method": lambda z: (z - Y).pow(2).mean(),
    "power operator": lambda z: ((z - Y) ** 2).mean(),
    "power of a float": lambda z: (Y - z).pow(2.0).sum(),
    "torch.square": lambda z: torch.mean(torch.square(z - Y)),
    "product with itself": lambda z: ((r := z - Y) * r).sum() / (2 * ROWS),
    "norm squared": lambda z: 0.5 * torch.linalg.norm(z - Y) ** 2,
    "vector_norm squared": lambda z: torch.linalg.vector_norm(z - Y).square(),
    "norm method squared": lambda z: (z - Y).norm().pow(2),
    "norms of rows squared": lambda z: ((z - Y).norm(dim=1) ** 2).mean(),
    "dot with itself": lambda z: (r := (z - Y).reshape(-1)).dot(r),
    "vector times itself": lambda z: (r := (z - Y).flatten()) @ r / ROWS,
    "weighted rows": lambda z: (torch.arange(ROWS)[:, None] * (z - Y) ** 2).mean(),
    "weighted entries": lambda z: (POSITIVE * (z - Y).square()).sum(),
    "divided by variances": lambda z: ((z - Y) ** 2 / POSITIVE).mean(),
    "sum over outputs, mean over rows": lambda z: (z - Y).square().sum(1).mean(0),
    "columns apart": lambda z: (
        (z[:, 0] - Y[:, 0]).square().mean() + 10 * (z[:, 1:] - Y[:, 1:]).square().mean()
    ),
    "stacked, weighted and summed": lambda z: (
        torch.stack([torch.mean(torch.square(part)) for part in (z[:2], z[2:] - 1)])
        * torch.tensor([1.0, 100.0])
    ).sum(),
    "concatenated": lambda z: torch.cat([z[:3].square(), 2 * (z[3:] - 1).square()]).mean(),
    "indexed by a list": lambda z: (z[[0, 3, 4]] - Y[[0, 3, 4]]).square().mean(),
    "masked": lambda z: (z - Y).square()[POSITIVE > 0.5].mean(),
    "masked out": lambda z: (z - Y).square().masked_fill(POSITIVE < 0.5, 0.0).sum(),
    "minus its negative": lambda z: 1.0 - (-(z - Y).square().sum()),
    "reshaped and transposed": lambda z: (z - Y).square().T.reshape(-1).view(-1, 1).sum(),
    "unbound": lambda z: sum(part.sum() for part in (z - Y).square().unbind(1)),
    "Python sum over rows": lambda z: sum(
        (row - y).square().sum() for row, y in zip(z, Y, strict=True)
    ),
    "detached weights": lambda z: ((z - Y).detach().abs() * (z - Y).square()).mean(),
    "gaussian_nll_loss": lambda z: functional.gaussian_nll_loss(z, Y, POSITIVE),
    "huber": lambda z: functional.huber_loss(z, Y, delta=0.7),
    "huber, weighted": lambda z: (
        POSITIVE * functional.huber_loss(z, Y, delta=0.7, reduction="none")
    ).sum(),
    "smooth_l1": lambda z: functional.smooth_l1_loss(z, Y, beta=0.6),
    "cross-entropy of labels": lambda z: functional.cross_entropy(z, LABELS),
    "cross-entropy, summed": lambda z: functional.cross_entropy(z, LABELS, reduction="sum"),
    "cross-entropy, per row": lambda z: functional.cross_entropy(
        z, LABELS, reduction="none"
    ).mean(),
    "cross-entropy of probabilities": lambda z: functional.cross_entropy(z, PROBABILITIES),
    "cross-entropy, smoothed": lambda z: functional.cross_entropy(z, LABELS, label_smoothing=0.1),
    "cross-entropy, class weights": lambda z: functional.cross_entropy(
        z, LABELS, weight=CLASS_WEIGHTS
    ),
    "cross-entropy, ignored labels": lambda z: functional.cross_entropy(
        z, torch.tensor([0, -100, 1, 1, -100, 2, 2])
    ),
    "log_softmax and nll": lambda z: functional.nll_loss(z.log_softmax(1), LABELS),
    "BCE with logits": lambda z: functional.binary_cross_entropy_with_logits(z, PROBABILITIES),
    "BCE with logits, positive weight": lambda z: functional.binary_cross_entropy_with_logits(
        z, PROBABILITIES, pos_weight=CLASS_WEIGHTS
    ),
    "mixed terms": lambda z: (
        functional.mse_loss(z, Y)
        + 0.3 * functional.cross_entropy(z, LABELS)
        + functional.huber_loss(z, Y).div(4)
    ),
}


def matrix_of(problem: Problem) -> Tensor:
    """The generalized Gauss-Newton matrix that find_residuals gives, nothing left over."""
    residuals = find_residuals(problem.value())
    assert residuals.unrecognised == []
    assert residuals.terms
    return residuals.gauss_newton(problem.params).dense()


@pytest.mark.parametrize("name", SQUARES)
def test_gauss_newton_of_every_way_to_write_a_convex_loss(name: str) -> None:
    problem = problem_of(mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), SQUARES[name])
    expected = problem.gauss_newton()
    assert float(expected.abs().max()) > 1e-3
    assert_close(matrix_of(problem), expected)


def test_cross_entropy_over_pixels() -> None:
    labels = torch.tensor([[[0, 1], [2, 1]], [[1, 1], [0, 2]]])
    x = randn(2, 3, 2, 2, seed=1)
    W = randn(3, 3, seed=2).requires_grad_()
    problem = Problem(
        [W],
        lambda p: torch.einsum("ck,bkij->bcij", p[0], x).tanh(),
        lambda z: functional.cross_entropy(z, labels),
    )
    assert_close(matrix_of(problem), problem.gauss_newton())


def test_rows_and_jacobian_are_those_of_the_outputs() -> None:
    problem = problem_of(mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), SQUARES["mse_loss"])
    residuals = find_residuals(problem.value())
    assert residuals.rows == ROWS * COLUMNS
    assert_close(residuals.jacobian(problem.params).dense(), problem.jacobian())
    assert_close(residuals.hessian().dense(), problem.output_hessian())


def test_each_term_of_a_sum_is_found_with_its_weight() -> None:
    problem = problem_of(
        mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), SQUARES["stacked, weighted and summed"]
    )
    terms = find_residuals(problem.value()).terms
    assert sorted(term.like.shape for term in terms) == [(2, COLUMNS), (ROWS - 2, COLUMNS)]
    weights = {term.like.shape[0]: float(term.weight.flatten()[0]) for term in terms}
    assert weights[2] == pytest.approx(1 / (2 * COLUMNS))
    assert weights[ROWS - 2] == pytest.approx(100 / ((ROWS - 2) * COLUMNS))


@pytest.mark.parametrize("factor", [0.3, 2.0])
def test_weight_decay_written_into_the_loss_adds_a_multiple_of_the_identity(factor: float) -> None:
    problem = regression(2, 4, 1)
    data = problem.value()
    decay = sum(param.square().sum() for param in problem.params)
    residuals = find_residuals(data + factor / 2 * decay)
    assert residuals.unrecognised == []
    expected = problem.gauss_newton()
    assert_close(
        residuals.gauss_newton(problem.params).dense(), expected + factor * torch.eye(len(expected))
    )


def test_pinn_with_boundary_term() -> None:
    model = mlp(2, 4, 1)
    params = list(model.parameters())
    points, forcing, edge = randn(5, 2, seed=3), randn(5, seed=4), randn(3, 2, seed=5)
    interior = pinn_residual(model, points, forcing)
    residuals = find_residuals(interior.square().mean() + 100 * (model(edge) ** 2).mean())
    assert residuals.unrecognised == []
    inside = Problem(
        list(params),
        pinn_residual_reference(model, points, forcing),
        lambda r: r.square().mean(),
    )
    boundary = problem_of(model, edge, lambda z: 100 * z.square().mean())
    assert_close(
        residuals.gauss_newton(params).dense(), inside.gauss_newton() + boundary.gauss_newton()
    )


def test_gauss_newton_is_positive_semidefinite_where_the_hessian_is_not() -> None:
    problem = problem_of(
        mlp(2, 6, COLUMNS), randn(ROWS, 2, seed=1), SQUARES["cross-entropy of labels"]
    )
    assert float(torch.linalg.eigvalsh(problem.hessian())[0]) < -1e-4
    assert float(torch.linalg.eigvalsh(matrix_of(problem))[0]) > -1e-14


UNRECOGNISED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "negative weight": (lambda z: -functional.mse_loss(z, Y), "MseLoss"),
    "weights of both signs": (lambda z: ((z - Y).square() * Y).sum(), "Pow"),
    "cube": (lambda z: (z - Y).pow(3).sum(), "Pow"),
    "product of two outputs": (lambda z: (z[:, 0] * z[:, 1]).sum(), "Mul"),
    "dot of two outputs": (lambda z: z[:, 0].dot(z[:, 1]), "Dot"),
    "positive log-likelihood": (lambda z: -functional.cross_entropy(z, LABELS), "LogSoftmax"),
    "largest": (lambda z: z.amax(1).mean(), "Amax"),
    "pinball": (lambda z: torch.maximum(0.9 * (z - Y), 0.1 * (Y - z)).mean(), "Maximum"),
    "product of all": (lambda z: z.prod(), "Prod"),
}


@pytest.mark.parametrize("name", UNRECOGNISED)
def test_what_is_not_recognised_is_listed(name: str) -> None:
    loss, node = UNRECOGNISED[name]
    problem = problem_of(mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), loss)
    residuals = find_residuals(problem.value())
    assert any(node in found for found in residuals.unrecognised)


def test_what_is_recognised_beside_something_unknown_is_still_right() -> None:
    problem = problem_of(mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), SQUARES["mse_loss"])
    z = problem.outputs(problem.params)
    residuals = find_residuals(problem.loss(z) + z.prod())
    assert residuals.unrecognised == ["ProdBackward0"]
    assert_close(residuals.gauss_newton(problem.params).dense(), problem.gauss_newton())


def test_negative_weight_inside_binary_cross_entropy_is_not_called_convex() -> None:
    weight = torch.tensor([-1.0, 1.0, 1.0])
    problem = problem_of(
        mlp(2, 4, COLUMNS),
        randn(ROWS, 2, seed=1),
        lambda z: functional.binary_cross_entropy_with_logits(z, PROBABILITIES, weight=weight),
    )
    residuals = find_residuals(problem.value())
    assert residuals.unrecognised or (
        float(torch.linalg.eigvalsh(residuals.gauss_newton(problem.params).dense())[0]) > -1e-12
    )


def test_shared_squares_are_counted_once() -> None:
    problem = problem_of(
        mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), lambda z: 5 * z.square().mean()
    )
    e = problem.outputs(problem.params).square()
    residuals = find_residuals(e.mean() + 4 * e.mean())
    assert len(residuals.terms) == 1
    assert_close(residuals.gauss_newton(problem.params).dense(), problem.gauss_newton())


def test_square_inside_another_square_is_reported() -> None:
    """Its weight in the loss cannot be told from the slope of the square around it."""
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    e = x.square()
    residuals = find_residuals(e.mean() + (e - 1).square().mean())
    assert residuals.unrecognised == ["PowBackward0"]
    slope = 2 * torch.diag(x.detach())
    assert_close(residuals.gauss_newton([x]).dense(), slope @ slope)


def leaf(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64, requires_grad=True)


NODES: dict[str, Callable[[], Tensor]] = {
    "AbsBackward0": lambda: leaf(2).abs(),
    "DistBackward0": lambda: torch.dist(leaf(2), torch.zeros(2)),
    "NormBackward1": lambda: functional.pairwise_distance(leaf(1, 2), torch.zeros(1, 2)),
    "SqrtBackward0": lambda: leaf(2).sqrt(),
    "StdBackward0": lambda: leaf(2).std(),
    "VarBackward0": lambda: leaf(2).var(),
    "GatherBackward0": lambda: leaf(2).gather(0, torch.tensor([1])),
    "MaskedSelectBackward0": lambda: leaf(2).masked_select(torch.tensor([True, False])),
    "NansumBackward0": lambda: leaf(2).nansum(),
    "WhereBackward0": lambda: torch.where(torch.tensor([True, False]), leaf(2), 0.0),
    "AddBackward0": lambda: leaf(2) + leaf(2),
    "AliasBackward0": lambda: torch.ops.aten.alias(leaf(2)),
    "CatBackward0": lambda: torch.cat([leaf(2), leaf(2)]),
    "CloneBackward0": lambda: leaf(2).clone(),
    "DivBackward0": lambda: leaf(2) / 3.0,
    "ExpandBackward0": lambda: leaf(1).expand(3),
    "IndexBackward0": lambda: leaf(3)[[0, 2]],
    "IndexSelectBackward0": lambda: leaf(3).index_select(0, torch.tensor([1])),
    "MaskedFillBackward0": lambda: leaf(2).masked_fill(torch.tensor([True, False]), 0.0),
    "MeanBackward0": lambda: leaf(2).mean(),
    "MeanBackward1": lambda: leaf(2, 2).mean(0),
    "MulBackward0": lambda: leaf(2) * 3.0,
    "NegBackward0": lambda: -leaf(2),
    "NllLossBackward0": lambda: functional.nll_loss(leaf(1, 2), torch.tensor([1])),
    "NllLoss2DBackward0": lambda: functional.nll_loss(
        leaf(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)
    ),
    "PermuteBackward0": lambda: leaf(2, 3, 1).permute(2, 0, 1),
    "RsubBackward1": lambda: torch.rsub(leaf(2), 1.0),
    "SelectBackward0": lambda: leaf(2)[0],
    "SliceBackward0": lambda: leaf(3)[:2],
    "SqueezeBackward0": lambda: leaf(1, 2).squeeze(),
    "SqueezeBackward1": lambda: leaf(1, 2).squeeze(0),
    "StackBackward0": lambda: torch.stack([leaf(2), leaf(2)]),
    "SubBackward0": lambda: leaf(2) - 1.0,
    "SumBackward0": lambda: leaf(2).sum(),
    "SumBackward1": lambda: leaf(2, 2).sum(0),
    "TBackward0": lambda: leaf(2, 2).t(),
    "ToCopyBackward0": lambda: leaf(2).to(torch.float32),
    "TransposeBackward0": lambda: leaf(2, 2).transpose(0, 1),
    "UnbindBackward0": lambda: leaf(2).unbind()[0],
    "UnsafeViewBackward0": lambda: leaf(2, 3).transpose(0, 1).reshape(6),
    "UnsqueezeBackward0": lambda: leaf(2).unsqueeze(0),
    "ViewBackward0": lambda: leaf(4).view(2, 2),
    "PowBackward0": lambda: leaf(2) ** 2,
    "DotBackward0": lambda: leaf(2).dot(leaf(2)),
    "LinalgVectorNormBackward0": lambda: torch.linalg.vector_norm(leaf(2)),
    "MseLossBackward0": lambda: functional.mse_loss(leaf(2), torch.zeros(2)),
    "HuberLossBackward0": lambda: functional.huber_loss(leaf(2), torch.zeros(2)),
    "SmoothL1LossBackward0": lambda: functional.smooth_l1_loss(leaf(2), torch.zeros(2)),
    "BinaryCrossEntropyWithLogitsBackward0": lambda: functional.binary_cross_entropy_with_logits(
        leaf(2), torch.zeros(2)
    ),
    "LogSoftmaxBackward0": lambda: leaf(2, 2).log_softmax(1),
}
"""One expression for every name of a node that the package relies on."""

NO_LONGER_MADE = {
    "AddBackward1", "DivBackward1", "MulBackward1", "NormBackward0", "ReshapeAliasBackward0",
    "RsubBackward0", "SqueezeBackward2", "SubBackward1",
}  # fmt: skip
"""Names that some PyTorch version or some rarer overload gives; harmless where it does not."""


@pytest.mark.parametrize("name", NODES)
def test_private_node_name_is_still_what_pytorch_calls_it(name: str) -> None:
    node = NODES[name]().grad_fn
    assert node is not None
    assert node.name() == name


def test_every_node_name_relied_on_has_an_expression_above() -> None:
    assert set(CURVED) | LINEAR | NORMS | ROOTS == set(NODES) | NO_LONGER_MADE


def test_private_attributes_are_still_there() -> None:
    assert (leaf(2) ** 2).grad_fn._saved_exponent == 2
    assert leaf(2).pow(2.0).grad_fn._saved_exponent == 2
    assert torch.square(leaf(2)).grad_fn._saved_exponent == 2
    assert torch.linalg.vector_norm(leaf(2)).grad_fn._saved_ord == 2
    assert torch.linalg.vector_norm(leaf(2), 3).grad_fn._saved_ord == 3
    norm = leaf(2).norm().grad_fn
    assert getattr(norm, "_saved_ord", getattr(norm, "_saved_p", None)) in (2, None)


def test_constant_operands_are_none_among_next_functions() -> None:
    left, right = (leaf(2) / torch.ones(2)).grad_fn.next_functions
    assert left[0] is not None
    assert right[0] is None
    x = leaf(2)
    accumulate = (x * x).grad_fn.next_functions[0][0]
    assert accumulate.variable is x


@pytest.mark.parametrize("order", [1, 3, float("inf")])
def test_squares_of_other_norms_are_not_taken_for_squares_of_entries(order: float) -> None:
    x = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    residuals = find_residuals(torch.linalg.vector_norm(x, order) ** 2)
    gradient = torch.func.grad(lambda v: torch.linalg.vector_norm(v, order))(x.detach())
    # |x|_p is one convex number z, and z ** 2 has G = 2 dz dz^T.
    assert_close(residuals.gauss_newton([x]).dense(), 2 * torch.outer(gradient, gradient))


def test_a_loss_without_a_recognised_term_says_so() -> None:
    z = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="ExpBackward0"):
        find_residuals(z.exp().sum()).gauss_newton([z])


@pytest.mark.parametrize("name", SQUARES)
def test_function_space_of_every_way_to_write_a_convex_loss(name: str) -> None:
    """Rows J with J^T J the generalized Gauss-Newton matrix and J^T target the gradient.

    Only a loss that has a slope where it has no second derivative has more gradient than that.
    """
    problem = problem_of(mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), SQUARES[name])
    value = problem.value()
    g = gradient(value, problem.params)
    space = function_space(find_residuals(value), problem.params, g)
    assert space is not None
    J = space.jacobian.dense()
    assert_close(J.T @ J, problem.gauss_newton(), 1e-11)
    assert_close(J.T @ space.target, space.gradient, 1e-11)
    if not any(kind in name for kind in ("huber", "smooth_l1", "mixed terms")):
        assert_close(space.gradient, g, 1e-11)
    if space.dual:
        assert_close(space.gram, J @ J.T, 1e-11)


@pytest.mark.parametrize("name", SQUARES)
def test_second_derivatives_read_off_a_node_are_those_of_autograd(name: str) -> None:
    problem = problem_of(mlp(2, 4, COLUMNS), randn(ROWS, 2, seed=1), SQUARES[name])
    for term in find_residuals(problem.value()).terms:
        if term.curvature is not None:
            ones = torch.ones_like(term.like)
            assert_close(term.curvature.expand(term.like.shape), term.hessian_product()(ones))
