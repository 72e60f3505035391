"""Kronecker factors against formulas by hand and dense Gauss-Newton matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import assert_close, randn
from torch_newton import (
    Path,
    RegNewton,
    conjugate_gradient,
    damped,
    find_residuals,
    gradient,
)
from torch_newton.graph.blocks import Block
from torch_newton.graph.outer_products import Drawn, draw
from torch_newton.graph.random_root import OutputRoot, output_roots
from torch_newton.graph.terms import Term
from torch_newton.preconditioners import kronecker_factors as factors_module
from torch_newton.preconditioners.kronecker import Kronecker, KroneckerFactored
from torch_newton.preconditioners.kronecker_factors import factors
from torch_newton.preconditioners.kronecker_moments import MEMORY, updated

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def read(loss: Tensor) -> tuple[Sequence[Term], Sequence[OutputRoot]]:
    terms = find_residuals(loss).of_outputs
    roots = output_roots(terms)
    assert roots is not None
    return terms, roots


def drawn(loss: Tensor, params: Sequence[Tensor], seed: int = 0) -> Drawn:
    return draw(*read(loss), params, seed)


def block_of(loss: Tensor, params: Sequence[Tensor]) -> tuple[Drawn, Block]:
    found = drawn(loss, params)
    return found, found.blocks[0]


def columns(loss: Tensor, params: Sequence[Tensor], monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """Draws with each unit vector in place of random signs: their sum is the exact mean."""
    terms, roots = read(loss)
    (root,), (term,) = roots, terms
    found = []
    for unit in torch.eye(term.like.numel()).reshape(-1, *term.like.shape):
        slopes = [root.apply(unit)]
        monkeypatch.setattr(
            "torch_newton.graph.outer_products.random_slopes", lambda *_, s=slopes: s
        )
        found.append(draw(terms, roots, params, 0))
    return found


def gauss_newton(loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    return find_residuals(loss).gauss_newton(params).dense()


def of_columns(draws: Sequence[Drawn], params: Sequence[Tensor]) -> Tensor:
    """The sum over unit vectors of the matrices of each."""
    return torch.stack(
        [KroneckerFactored([], params).updated(d).operator().dense() for d in draws]
    ).sum(0)


def test_of_one_sample_of_a_deep_linear_network_the_mean_is_the_exact_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    params = list(net.parameters())
    loss = net(randn(1, 3)).square().sum()
    K, G = of_columns(columns(loss, params, monkeypatch), params), gauss_newton(loss, params)
    start = 0
    for layer in net:
        stop = start + sum(p.numel() for p in layer.parameters())
        assert_close(K[start:stop, start:stop], G[start:stop, start:stop])
        assert not K[start:stop, stop:].any()
        start = stop


def test_of_one_layer_it_is_exact_for_any_number_of_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nn.Linear(3, 2)
    params = list(net.parameters())
    loss = F.mse_loss(net(randn(7, 3)), randn(7, 2, seed=1))
    assert_close(of_columns(columns(loss, params, monkeypatch), params), gauss_newton(loss, params))


def test_the_trace_is_that_of_the_gauss_newton_matrix() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    params = list(net.parameters())
    loss = F.cross_entropy(net(randn(20, 5)), torch.arange(20) % 3)
    K = KroneckerFactored([], params)
    traces = [K.updated(drawn(loss, params, seed)).trace() for seed in range(300)]
    exact = float(gauss_newton(loss, params).trace())
    # Half of D is the product of eigenvalues, whose trace supposes that the factors are
    # independent; the other half is exact in the mean, of which 300 draws err by 0.4 %.
    assert sum(traces) / len(traces) == pytest.approx(exact, rel=0.05)


def test_the_factors_of_a_convolution_are_those_of_its_patches() -> None:
    net = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    x = randn(4, 2, 7, 7)
    z = net(x)
    found, block = block_of(z.square().mean(), list(net.parameters()))
    cotangent = found.cotangents[found.uses[0][0].output]
    assert cotangent is not None
    patches = F.unfold(x, 3, padding=1, stride=2).permute(0, 2, 1).reshape(-1, 18)
    patches = torch.cat([patches, torch.ones(len(patches), 1)], 1)
    places = cotangent.flatten(2).permute(0, 2, 1).reshape(-1, 3)
    got = factors(list(found.of(block)), block.joined_shape)
    assert_close(got.left[0], places.T @ places)
    assert_close(got.right[0] / got.count, patches.T @ patches / len(patches))


def test_the_factors_of_an_embedding_are_counts_and_the_moment_of_its_cotangents() -> None:
    net, tokens = nn.Embedding(5, 3), torch.tensor([[0, 1, 1], [3, 1, 0]])
    found, block = block_of(net(tokens).square().mean(), list(net.parameters()))
    cotangent = found.cotangents[found.uses[0][0].output]
    assert cotangent is not None
    got = factors(list(found.of(block)), block.joined_shape)
    assert_close(got.left[0], torch.tensor([2.0, 3.0, 0.0, 1.0, 0.0]))
    assert_close(got.right[0], cotangent.reshape(-1, 3).T @ cotangent.reshape(-1, 3))
    assert float(got.count) == 6


def test_a_weight_that_is_used_again_has_the_factors_of_all_its_uses() -> None:
    W = randn(3, 3, seed=1).requires_grad_()
    x = randn(4, 3)
    first = (x @ W.T).tanh()
    found, block = block_of((first @ W.T).square().mean(), [W])
    got = factors(list(found.of(block)), block.joined_shape)
    operands = torch.cat([x, first.detach()])
    slopes = [found.cotangents[use.output] for use in found.uses[0]]
    cotangents = torch.cat([s for s in slopes if s is not None])
    assert_close(got.right[0] / got.count, operands.T @ operands / 8)
    assert_close(got.left[0], cotangents.T @ cotangents)


def test_a_weight_that_is_used_on_both_sides_has_balanced_factors() -> None:
    W = randn(5, 3, seed=1).requires_grad_()
    tokens = torch.tensor([0, 2, 4, 4])
    found, block = block_of((W[tokens].tanh() @ W.T).square().mean(), [W])
    got = factors(list(found.of(block)), block.joined_shape)
    assert got.left.shape == (1, 5, 5)
    assert got.right.shape == (1, 3, 3)
    assert float(got.left[0].trace()) == pytest.approx(float(got.right[0].trace()))


def test_padding_does_not_dilute_the_moment_of_the_operands() -> None:
    net, x = nn.Linear(3, 2), randn(8, 3)
    kept = torch.tensor([0, 3, 5])
    found, block = block_of(net(x)[kept].square().mean(), list(net.parameters()))
    got = factors(list(found.of(block)), block.joined_shape)
    rows = torch.cat([x[kept], torch.ones(3, 1)], 1)
    assert float(got.count) == 3
    assert_close(got.right[0] / got.count, rows.T @ rows / 3)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    ),
    "without products": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(36, 3))
    ),
}


def problem(name: str) -> tuple[Callable[[], Tensor], list[Tensor]]:
    torch.manual_seed(0)
    net, x, y = NETWORKS[name](), randn(10, 1, 6, 6), torch.arange(10) % 3
    return lambda: F.cross_entropy(net(x), y), list(net.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_inverse_is_that_of_a_positive_semidefinite_matrix(name: str) -> None:
    loss, params = problem(name)
    K = KroneckerFactored([], params)
    for seed in range(7):
        K = K.updated(drawn(loss(), params, seed))
    dense = K.operator().dense()
    assert_close(dense, dense.T)
    assert float(torch.linalg.eigvalsh(dense)[0]) > -1e-12 * K.trace()
    damped = dense + 0.3 * torch.eye(len(dense))
    assert_close(K.inverse(0.3).dense(), torch.linalg.inv(damped))


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_kept_in_the_state_of_the_parameters(name: str) -> None:
    loss, params = problem(name)
    K = KroneckerFactored([], params)
    for seed in range(3):
        K = K.updated(drawn(loss(), params, seed))
    state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
    K.keep(state)
    kept = KroneckerFactored.kept(state, params)
    v = randn(K.operator().shape[0])
    assert torch.equal(kept.solve(v, 0.1), K.solve(v, 0.1))
    again = [k.updated(drawn(loss(), params, 3)).solve(v, 0.1) for k in (K, kept)]
    assert torch.equal(*again)
    assert not KroneckerFactored.kept(state, params[1:]).blocks


def test_means_are_over_all_steps_at_first_and_then_forget() -> None:
    net = nn.Linear(3, 2)
    params = list(net.parameters())
    rights, moments = [], None
    for seed in range(30):
        x = randn(4, 3, seed=seed)
        found, block = block_of(net(x).square().mean(), params)
        moments = updated(moments, found, block)
        assert moments is not None
        assert moments.factors is not None
        rights.append(factors(list(found.of(block)), block.joined_shape).right)
        if seed == 9:
            assert_close(moments.factors.right, torch.stack(rights).mean(0))
    expected = torch.stack(rights[:20]).mean(0)
    for right in rights[20:]:
        expected = MEMORY * expected + (1 - MEMORY) * right
    assert_close(moments.factors.right, expected)


def test_long_vectors_are_taken_as_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors_module, "MAX_FACTOR", 4)
    net = nn.Linear(3, 6)
    loss = net(randn(5, 3)).square().mean()
    params = list(net.parameters())
    K = KroneckerFactored([], params).updated(drawn(loss, params))
    ((_, moments),) = K.blocks
    assert moments.left_basis is None
    assert moments.right_basis is not None
    damped = K.operator().dense() + 0.1 * torch.eye(24)
    assert_close(K.inverse(0.1).dense(), torch.linalg.inv(damped))


def test_numbers_that_are_not_finite_leave_the_means_as_they_were() -> None:
    net = nn.Linear(3, 2)
    params = list(net.parameters())
    found, block = block_of(net(randn(5, 3)).square().mean(), params)
    before = updated(None, found, block)
    found, block = block_of((net(randn(5, 3)) * 1e200).square().mean(), params)
    assert updated(before, found, block) is before


def test_conjugate_gradients_begin_better_with_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 3))
    params, x = list(net.parameters()), randn(300, 8) * 10 ** torch.linspace(0, -2, 8)
    loss = F.cross_entropy(net(x), torch.arange(300) % 3)
    A = damped(find_residuals(loss).gauss_newton(params), 1e-3)
    at = Kronecker()(loss, params)
    assert at is not None
    with_it, without = (
        conjugate_gradient(A, gradient(loss, params), M, tol=0.1).iterations
        for M in (at(1e-3), None)
    )
    assert with_it < 0.5 * without


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_it_can_be_asked_for_by_its_name(curvature: str) -> None:
    loss, params = problem("dense")
    optimizer = RegNewton(params, curvature=curvature, preconditioner="kronecker")
    losses = [optimizer.step(loss).item() for _ in range(4)]
    assert losses[-1] < 0.5 * losses[0]
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.USER


def test_a_loss_of_unknown_terms_has_no_preconditioner() -> None:
    z = randn(100).requires_grad_()
    assert Kronecker()((z * 1.0).logsumexp(0), [z]) is None
