"""Inertia, spectral density and trace against dense eigenvalues."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import (
    assert_close,
    generator,
    mlp,
    problem_of,
    randn,
    regression,
    symmetric_with,
)
from torch_newton import (
    Fraction,
    Inertia,
    extreme_eigenvalues,
    from_dense,
    hessian,
    identity,
    inertia,
    negative_fraction,
    spectral_density,
    trace,
)
from torch_newton.autodiff.nodes import largest_gradient

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


def network(seed: int, largest: int = 2000) -> tuple[object, int]:
    """The mean squared error of a random net of at most `largest` parameters."""
    random = generator(seed)
    depth, rows, outputs = (
        int(torch.randint(low, high, (), generator=random))
        for low, high in ((1, 4), (1, 40), (1, 4))
    )
    limit = 10 ** (1 + (math.log10(largest) - 1) * float(torch.rand((), generator=random)))
    width = 1
    while True:
        sizes = [2, *[width + 1] * depth, outputs]
        if sum((a + 1) * b for a, b in itertools.pairwise(sizes)) > max(limit, 40):
            break
        width += 1
    return regression(2, *[width] * depth, outputs, rows=rows, seed=seed), width


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_every_number_lies_within_its_bound_on_random_networks(seed: int) -> None:
    for case in range(10):
        # One in ten is large, the others are quick to diagonalise.
        problem, _ = network(100 * seed + case, 2000 if case < 3 else 300)
        H = hessian(problem.value(), problem.params)
        dense = H.dense()
        n = len(dense)
        assert n <= 2000
        values = torch.linalg.eigvalsh(dense)
        slack = 10 * 2.3e-16 * float(values.abs().max())

        found = extreme_eigenvalues(H, seed=case)
        for end, eigenvalue in ((values[0], found.smallest), (values[-1], found.largest)):
            nearest = float((values - eigenvalue.value).abs().min())
            assert nearest <= eigenvalue.error_bound + slack
            assert float(values[0]) - slack <= eigenvalue.value <= float(values[-1]) + slack
            if n <= 100:
                assert abs(float(end) - eigenvalue.value) <= eigenvalue.error_bound + slack
        assert found.lowest <= float(values[0]) + slack

        signs = inertia(H)
        # How many are negative is known up to those within rounding of zero.
        negative = int((values < 0).sum())
        assert signs.size == n
        assert signs.negative <= negative <= signs.negative + signs.undecided
        counted = signs.negative_fraction
        assert counted.low <= negative / n <= counted.high
        estimated = negative_fraction(H, seed=case, confidence=1 - 1e-9)
        assert estimated.low <= negative / n <= estimated.high

        sampled = trace(H, seed=case)
        assert abs(sampled.value - float(values.sum())) <= 8 * sampled.standard_error + slack * n


def test_batched_products_are_the_single_ones() -> None:
    problem = regression(2, 7, 3, 2)
    H = hessian(problem.value(), problem.params)
    V = randn(H.shape[0], 9)
    assert_close(H @ V, torch.stack([H @ v for v in V.unbind(1)], 1), 1e-13)
    assert_close(H.dense(), problem.hessian(), 1e-12)


def test_the_size_of_a_batch_follows_from_the_largest_tensor_in_the_graph() -> None:
    """This fails where PyTorch no longer tells the shapes that its nodes carry."""
    x = randn(7, 3).requires_grad_()
    loss = (x @ randn(3, 11)).square().sum()
    assert loss.grad_fn is not None
    assert largest_gradient([loss.grad_fn]) == 77


def test_operations_that_cannot_be_vectorised_are_taken_one_by_one() -> None:
    class Cube(torch.autograd.Function):  # without a vmap rule
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 3 * g * x.detach() ** 2 if ctx.needs_input_grad[0] else None

    x = randn(5).requires_grad_()
    shape = (x[:, None] - x).square()
    loss = (Cube.apply(x) * 0).sum() + shape.pow(2).sum()
    H = hessian(loss, [x])
    assert_close(H.dense(), torch.stack([H @ e for e in torch.eye(5)], 1))


# Definiteness


@pytest.mark.parametrize("seed", range(10))
def test_indefinite_matrix_is_never_called_definite(seed: int) -> None:
    """A thousand matrices of norm about one whose smallest eigenvalue is -1e-10 or below."""
    for case in range(100):
        random = generator(1000 * seed + case)
        n = int(torch.randint(1, 60, (), generator=random))
        margin = 10 ** float(-10 * torch.rand((), generator=random))
        values = torch.cat([torch.tensor([-margin]), torch.rand(n - 1, generator=random)])
        matrix = torch.diag(values) if case % 2 else symmetric_with(values, seed=case)
        A = from_dense(matrix)
        assert inertia(A).positive_definite is not True
        steps = (100, 20, 6)[case % 3]
        assert extreme_eigenvalues(A, max_iter=steps, seed=case).positive_definite is not True


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 12), seeds)
def test_inertia_counts(negative: int, zero: int, positive: int, seed: int) -> None:
    values = torch.cat([-torch.rand(negative) - 0.1, torch.zeros(zero), torch.rand(positive) + 0.1])
    signs = inertia(from_dense(torch.diag(values)))
    assert (signs.negative, signs.undecided, signs.positive) == (negative, zero, positive)
    turned = inertia(from_dense(symmetric_with(values, seed=seed)))
    assert (turned.negative, turned.undecided, turned.positive) == (negative, zero, positive)
    n = len(values)
    assert signs.negative_fraction == Fraction(negative / n, negative / n, (negative + zero) / n)
    assert signs.positive_definite is (False if negative else None if zero else True)


def test_what_rounding_decides_is_undecided() -> None:
    values = torch.tensor([-1e-17, 1e-17, 1.0])
    assert Inertia.of(values, 1e-16) == Inertia(0, 2, 1, 1e-16)
    assert Inertia.of(values, 0.0) == Inertia(1, 0, 2, 0.0)
    coarse = inertia(from_dense(torch.diag(torch.tensor([-1e-3, 0.5, 1.0]))), epsilon=1e-3)
    assert coarse.undecided == 1


# The negative share


@pytest.mark.parametrize(("values", "share"), [([1.0, 2.0, 3.0], 0.0), ([-1.0, -2.0], 1.0)])
def test_share_of_definite_matrices_is_exact(values: list[float], share: float) -> None:
    fraction = negative_fraction(from_dense(symmetric_with(values)))
    assert (fraction.low, fraction.high) == (share, share)
    assert fraction.value == pytest.approx(share, abs=1e-12)


def covered(values: Tensor, steps: int, probes: int, confidence: float, trials: int) -> int:
    share = float((values < 0).double().mean())
    found = (
        negative_fraction(
            from_dense(torch.diag(values)),
            probes=probes,
            steps=steps,
            seed=1000 * trial,
            confidence=confidence,
        )
        for trial in range(trials)
    )
    return sum(f.low <= share <= f.high for f in found)


CROWDS = {
    "spread": torch.linspace(-1, 3, 100),
    "crowded at zero": torch.cat([1e-5 * torch.linspace(-1, 1, 95), torch.linspace(0.5, 1, 5)]),
    "crowded from below": torch.cat(
        [-1e-4 * torch.rand(60, generator=generator(1)), torch.ones(9)]
    ),
    "exact zeros": torch.cat([torch.zeros(50), torch.linspace(-1, 1, 20)]),
    "one negative": torch.cat([torch.tensor([-1.0]), torch.linspace(0.1, 1, 99)]),
}
CROWDS = {name: values.double() for name, values in CROWDS.items()}


@pytest.mark.parametrize("name", CROWDS)
@pytest.mark.parametrize("steps", [3, 20, 200])
def test_interval_covers_the_share_as_often_as_it_says(name: str, steps: int) -> None:
    # Chernoff's bound is generous: at 80 % fewer than 30 of 200 may miss, and few do.
    assert covered(CROWDS[name], steps, 2, 0.8, 50) >= 40


def test_interval_is_wide_where_signs_cannot_be_told_and_narrow_where_they_can() -> None:
    values = CROWDS["crowded at zero"]
    A = from_dense(torch.diag(values))
    blind = negative_fraction(A, steps=3)
    assert blind.high - blind.low > 0.8
    seeing = negative_fraction(A, steps=100)
    assert seeing.high - seeing.low < 0.3
    wide = from_dense(torch.diag(torch.linspace(-1, 3, 4000)))
    many = negative_fraction(wide, probes=20, steps=80)
    assert 0.22 < many.low < 0.25 < many.high < 0.28


def test_confidence_widens_the_interval() -> None:
    A = from_dense(torch.diag(torch.linspace(-1, 3, 200)))
    some, sure = (negative_fraction(A, confidence=c) for c in (0.5, 0.999))
    assert sure.low < some.low <= some.value <= some.high < sure.high
    assert sure.confidence == 0.999


def test_hessian_with_a_crowd_near_zero_has_its_share_inside() -> None:
    problem = problem_of(
        mlp(1, 30, 30, 1), torch.linspace(-1, 1, 50)[:, None], lambda z: z.square().mean()
    )
    H = hessian(problem.value(), problem.params)
    counted, estimated = inertia(H).negative_fraction, negative_fraction(H)
    assert estimated.low <= counted.low
    assert counted.high <= estimated.high


# The density


@given(st.integers(2, 20), st.integers(1, 25), st.integers(1, 4), seeds)
def test_moments_of_the_density_are_those_of_its_vectors(
    n: int, steps: int, probes: int, seed: int
) -> None:
    matrix = symmetric_with(torch.linspace(-1, 2, n), seed=seed)
    density = spectral_density(from_dense(matrix), probes=probes, steps=steps, seed=seed)
    V = torch.stack(
        [torch.randn(n, generator=generator(seed + i), dtype=torch.float64) for i in range(probes)]
    )
    for power in range(2 * min(steps, n)):
        expected = ((V @ torch.linalg.matrix_power(matrix, power)) * V).sum() / V.square().sum()
        actual = (density.weights * density.nodes**power).sum()
        assert float(actual) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


def test_density_integrates_to_one_and_follows_the_eigenvalues() -> None:
    values = torch.cat([torch.linspace(-1, 0, 300), torch.linspace(0, 2, 300)])
    density = spectral_density(from_dense(torch.diag(values)), probes=10, steps=60)
    x = torch.linspace(-3, 4, 2001)
    curve = density(x, 0.1)
    assert float(torch.trapezoid(curve, x)) == pytest.approx(1.0, abs=1e-6)
    assert float(curve[(x + 0.5).abs().argmin()]) == pytest.approx(0.5, abs=0.08)
    assert float(curve[(x - 1.0).abs().argmin()]) == pytest.approx(0.25, abs=0.05)


# The trace


@given(st.integers(1, 40), seeds)
def test_trace_of_a_matrix_of_low_rank_is_exact(n: int, seed: int) -> None:
    values = torch.zeros(n)
    values[: min(n, 3)] = torch.tensor([5.0, -2.0, 1.0])[:n]
    found = trace(from_dense(symmetric_with(values, seed=seed)), seed=seed)
    assert found.value == pytest.approx(float(values.sum()), abs=1e-10)
    assert found.products <= max(n, 30)


def test_trace_lies_within_its_standard_error() -> None:
    values = torch.linspace(-1, 2, 200)
    A = from_dense(symmetric_with(values))
    misses = [
        abs(found.value - float(values.sum())) / found.standard_error
        for found in (trace(A, seed=10 * i) for i in range(40))
    ]
    assert sum(miss < 2 for miss in misses) >= 34
    assert max(misses) < 5
    assert trace(identity(4)).value == 4
