"""Roots of the output Hessian against dense second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.helpers import assert_close, randn
from torch_newton import find_residuals
from torch_newton.graph.output_change import OutputChange
from torch_newton.graph.random_root import SoftmaxRoot, output_roots, random_slopes

pytestmark = pytest.mark.usefixtures("float64")

LABELS = torch.tensor([0, 2, 1, 2])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "squares": lambda z: F.mse_loss(z, torch.ones_like(z)),
    "weighted squares": lambda z: (z.square() * torch.arange(1.0, 13.0).reshape(4, 3)).sum(),
    "cross-entropy": lambda z: F.cross_entropy(z, LABELS),
    "class weights": lambda z: F.cross_entropy(z, LABELS, weight=WEIGHTS),
    "smoothed labels": lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.2),
    "ignored label": lambda z: F.cross_entropy(z, LABELS, ignore_index=2),
    "binary": lambda z: F.binary_cross_entropy_with_logits(z, torch.ones_like(z)),
    "divergence": lambda z: F.kl_div(z.log_softmax(1), torch.full_like(z, 1 / 3), reduction="sum"),
}


def outputs() -> Tensor:
    return randn(4, 3, seed=1).requires_grad_()


def hessian(loss: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    found: Tensor = torch.autograd.functional.hessian(loss, z.detach())
    return found.reshape(z.numel(), z.numel())


@pytest.mark.parametrize("name", LOSSES)
def test_the_root_times_its_transpose_is_the_output_hessian(name: str) -> None:
    loss, x = LOSSES[name], outputs()
    terms = find_residuals(loss(x * 1.0)).of_outputs
    roots = output_roots(terms)
    assert roots is not None
    (root,) = roots
    units = torch.eye(x.numel()).reshape(-1, 4, 3)
    B = torch.stack([root.apply(unit).reshape(-1) for unit in units], 1)
    assert_close(B @ B.T, hessian(loss, x))


@pytest.mark.parametrize("name", LOSSES)
def test_the_change_of_the_outputs_is_measured_with_the_output_hessian(name: str) -> None:
    loss, x = LOSSES[name], outputs()
    terms = find_residuals(loss(x * 1.0)).of_outputs
    roots = output_roots(terms)
    assert roots is not None
    change = OutputChange.at(terms, roots)
    assert change is not None
    d = randn(4, 3, seed=2)
    h = 1e-6
    squared = change.squared(loss((x + h * d) * 1.0))
    assert squared is not None
    expected = float(d.reshape(-1) @ hessian(loss, x) @ d.reshape(-1))
    assert squared / h**2 == pytest.approx(expected, rel=1e-4)


def test_random_slopes_have_the_output_hessian_as_their_second_moment() -> None:
    loss, x = LOSSES["cross-entropy"], outputs()
    terms = find_residuals(loss(x * 1.0)).of_outputs
    roots = output_roots(terms)
    assert roots is not None
    draws = torch.stack([random_slopes(roots, terms, seed)[0].reshape(-1) for seed in range(4000)])
    Q = hessian(loss, x)
    # The error of a mean of n draws is sqrt(2 / n) of the diagonal's entries: 2.2 %.
    assert float((draws.T @ draws / len(draws) - Q).abs().max()) < 0.1 * float(Q.diagonal().max())
    assert float(draws.mean(0).abs().max()) < 0.1 * float(Q.diagonal().max()) ** 0.5
    assert torch.equal(random_slopes(roots, terms, 3)[0], random_slopes(roots, terms, 3)[0])


def test_there_is_a_root_for_any_number_of_classes_and_any_dimension_of_them() -> None:
    z = randn(2, 500, 3, seed=4).requires_grad_()
    terms = find_residuals(F.cross_entropy(z * 1.0, torch.zeros(2, 3).long())).of_outputs
    roots = output_roots(terms)
    assert roots is not None
    assert isinstance(roots[0], SoftmaxRoot)
    p = z.detach().softmax(1)
    s = random_slopes(roots, terms, 0)[0]
    assert_close(s.sum(1), torch.zeros(2, 3))  # Q annuls what is the same for all classes
    assert float(s.square().sum()) == pytest.approx(float((p * (1 - p)).sum()) / 6, rel=0.2)


def test_samples_that_interact_have_no_root() -> None:
    z = randn(100, seed=1).requires_grad_()
    terms = find_residuals((z * 1.0).logsumexp(0)).of_outputs
    assert output_roots(terms) is None
    assert output_roots([]) is None
