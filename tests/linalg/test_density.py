"""The spectral density and the negative share against dense eigenvalues."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import (
    generator,
    mlp,
    problem_of,
    regression,
    symmetric_with,
)
from torch_newton import (
    extreme_eigenvalues,
    from_dense,
    hessian,
    inertia,
    negative_fraction,
    spectral_density,
    trace,
)

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
