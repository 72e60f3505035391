"""The extreme eigenvalues and their bounds against dense linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import generator, regression, symmetric_with
from torch_newton import (
    Eigenvalue,
    Extremes,
    Lanczos,
    extreme_eigenvalues,
    from_dense,
    hessian,
    identity,
    inertia,
    lanczos,
    negative_fraction,
    trace,
)

pytestmark = pytest.mark.usefixtures("float64")

seeds = st.integers(0, 10_000)


def check_bounds(found: Eigenvalue, spectrum: Tensor, epsilon: float = 2.3e-16) -> None:
    """Some eigenvalue lies within the bound, and none of the estimates lies outside the range.

    `spectrum` has itself an error of some units in the last place of its largest value.
    """
    assert math.isfinite(found.error_bound)
    slack = 10 * epsilon * float(spectrum.abs().max())
    assert float((spectrum - found.value).abs().min()) <= found.error_bound + slack
    assert float(spectrum[0]) - slack <= found.value <= float(spectrum[-1]) + slack


def check_extremes(matrix: Tensor, found: Extremes, tol: float) -> None:
    spectrum = torch.linalg.eigvalsh(matrix)
    norm = float(spectrum.abs().max())
    for eigenvalue in (found.smallest, found.largest):
        check_bounds(eigenvalue, spectrum)
    if found.products >= len(matrix):
        assert found.smallest.value == pytest.approx(float(spectrum[0]), abs=1e-10 * norm + 1e-300)
        assert found.largest.value == pytest.approx(float(spectrum[-1]), abs=1e-10 * norm + 1e-300)
        assert found.smallest.converged
        assert found.largest.converged
    for eigenvalue in (found.smallest, found.largest):
        if eigenvalue.converged:
            rounding = found.products * 2.3e-16 * norm
            assert eigenvalue.error_bound <= tol * norm + rounding + 1e-300


@given(
    st.integers(1, 25),
    st.floats(-8, 8),
    st.floats(0, 4),
    st.sampled_from([1e-2, 1e-6, 1e-10]),
    st.integers(1, 30),
    seeds,
)
def test_extremes_lie_within_their_bounds(
    n: int, shift: float, decades: float, tol: float, max_iter: int, seed: int
) -> None:
    random = generator(seed)
    spread = 10 ** (decades * torch.rand(n, generator=random, dtype=torch.float64))
    matrix = symmetric_with(spread + shift, seed=seed)
    found = extreme_eigenvalues(from_dense(matrix), tol=tol, max_iter=max_iter, seed=seed)
    assert found.products <= min(n, max_iter)
    check_extremes(matrix, found, tol)


SPECTRA = {
    "clustered": [1.0, 1.0 + 1e-9, 1.0 + 2e-9, 5.0, 5.0 + 1e-9],
    "repeated": [-2.0, -2.0, -2.0, 3.0, 3.0, 3.0, 3.0],
    "one value": [4.0] * 6,
    "zero": [0.0] * 5,
    "one by one": [-7.0],
    "many decades": [1e-12, 1e-8, 1e-4, 1.0, 1e4],
    "single outlier": [0.0] * 9 + [1.0],
    "negative": [-3.0, -2.0, -1.0],
    "tiny": [1e-120, 2e-120, 3e-120],
    "huge": [-1e150, 1e140, 1e150],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("diagonal", [True, False], ids=["diagonal", "dense"])
def test_extremes_of_difficult_spectra(name: str, diagonal: bool) -> None:
    values = torch.tensor(SPECTRA[name])
    matrix = torch.diag(values) if diagonal else symmetric_with(values, seed=3)
    found = extreme_eigenvalues(from_dense(matrix))
    check_extremes(matrix, found, 1e-6)
    norm = float(values.abs().max())
    assert found.smallest.value == pytest.approx(float(values.min()), abs=1e-8 * norm)
    assert found.largest.value == pytest.approx(float(values.max()), abs=1e-8 * norm)
    assert found.smallest.converged
    assert found.largest.converged


def test_matrix_whose_squares_underflow_is_not_called_converged_on_a_wrong_value() -> None:
    found = extreme_eigenvalues(from_dense(1e-25 * torch.diag(torch.arange(1.0, 5.0)).float()))
    assert not found.smallest.converged or found.smallest.value == pytest.approx(
        1e-25, rel=1e-3, abs=0.0
    )


def test_identity_takes_one_product() -> None:
    found = extreme_eigenvalues(identity(50))
    assert found.products == 1
    assert found.smallest.value == pytest.approx(1.0)
    assert found.positive_definite is True


def test_more_products_are_not_taken_than_needed_or_allowed() -> None:
    matrix = symmetric_with([-5.0, *torch.linspace(0, 1, 198).tolist(), 5.0])
    found = extreme_eigenvalues(from_dense(matrix), tol=1e-3)
    assert found.products < 40
    assert found.smallest.converged
    assert found.largest.converged
    capped = extreme_eigenvalues(from_dense(matrix), tol=1e-12, max_iter=6)
    assert capped.products == 6
    assert not capped.smallest.converged
    assert capped.smallest.error_bound > 1e-12 * 5


def test_hessian_of_a_network() -> None:
    problem = regression(2, 6, 1)
    found = extreme_eigenvalues(hessian(problem.value(), problem.params))
    check_extremes(problem.hessian(), found, 1e-6)
    assert found.positive_definite is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    matrix = symmetric_with(torch.linspace(-1, 3, 30)).to(dtype)
    found = extreme_eigenvalues(from_dense(matrix), tol=1e-4)
    spectrum = torch.linalg.eigvalsh(matrix.double())
    for eigenvalue in (found.smallest, found.largest):
        check_bounds(eigenvalue, spectrum, torch.finfo(dtype).eps)


# What may be said about definiteness.


@pytest.mark.parametrize(
    ("value", "bound", "converged", "expected"),
    [
        (1.0, 0.1, True, True),
        (1.0, 0.1, False, None),
        (0.05, 0.1, True, None),
        (0.1, 0.1, True, None),
        (-1.0, 0.1, True, False),
        (-1.0, 0.1, False, False),
        (math.nan, math.inf, False, None),
    ],
)
def test_definiteness_follows_from_value_bound_and_convergence(
    value: float, bound: float, converged: bool, expected: bool | None
) -> None:
    smallest = Eigenvalue(value, bound, converged)
    assert Extremes(smallest, Eigenvalue(2.0, 0.0, True), 5).positive_definite is expected


@pytest.mark.parametrize("seed", range(4))
def test_indefinite_matrix_is_never_called_definite(seed: int) -> None:
    for case in range(100):
        random = generator(1000 * seed + case)
        n = int(torch.randint(1, 40, (), generator=random))
        margin = 10 ** float(-12 * torch.rand((), generator=random))
        rest = torch.rand(n - 1, generator=random, dtype=torch.float64)
        values = torch.cat([torch.tensor([-margin]), rest])
        matrix = torch.diag(values) if case % 2 else symmetric_with(values, seed=case)
        found = extreme_eigenvalues(
            from_dense(matrix),
            tol=(1e-6, 1e-3)[case % 2],
            max_iter=(100, 12, 5)[case % 3],
            seed=case,
        )
        assert found.positive_definite is not True


def test_indefinite_matrix_with_a_small_positive_neighbour_is_never_called_definite() -> None:
    wrong = 0
    for case in range(600):
        random = generator(case)
        n = int(torch.randint(8, 200, (), generator=random))
        draws = torch.rand(3, generator=random, dtype=torch.float64)
        small = 10 ** float(-2 - 6 * draws[0])
        margin = small * 10 ** float(-4 * draws[1])
        low = 0.05 + 0.9 * float(draws[2])
        bulk = low + (1 - low) * torch.rand(n - 2, generator=random, dtype=torch.float64)
        matrix = torch.diag(torch.cat([torch.tensor([-margin, small]), bulk]))
        found = extreme_eigenvalues(
            from_dense(matrix),
            tol=(1e-6, 1e-3, 1e-2)[case // 3 % 3],
            max_iter=(100, 15, 30)[case % 3],
            seed=case,
        )
        wrong += found.positive_definite is True
    assert wrong == 0


@pytest.mark.parametrize("seed", range(3))
def test_definite_matrix_is_never_called_indefinite_and_mostly_recognised(seed: int) -> None:
    recognised = 0
    for case in range(60):
        random = generator(1000 * seed + case)
        n = int(torch.randint(1, 40, (), generator=random))
        margin = 10 ** float(-3 * torch.rand((), generator=random))
        values = margin + torch.rand(n, generator=random, dtype=torch.float64)
        found = extreme_eigenvalues(from_dense(symmetric_with(values, seed=case)), seed=case)
        assert found.positive_definite is not False
        recognised += found.positive_definite is True
    assert recognised >= 55


def test_singular_matrix_is_not_called_definite() -> None:
    for values in ([0.0, 1.0, 2.0], [0.0, 0.0], [0.0]):
        found = extreme_eigenvalues(from_dense(symmetric_with(values)))
        assert found.positive_definite is not True


def test_wrong_arguments_are_refused() -> None:
    functions = (
        lambda A: lanczos(A, 3), extreme_eigenvalues, negative_fraction, inertia, trace,
    )  # fmt: skip
    for function in functions:
        with pytest.raises(ValueError, match="square, not 2 x 3"):
            function(from_dense(torch.ones(2, 3)))
    with pytest.raises(ValueError, match="max_iter must be positive"):
        lanczos(identity(2), 0)
    with pytest.raises(ValueError, match="max_iter must be positive"):
        extreme_eigenvalues(identity(2), max_iter=0)
    with pytest.raises(ValueError, match="probes must be positive"):
        negative_fraction(identity(2), probes=0)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        negative_fraction(identity(2), confidence=1.0)
    with pytest.raises(ValueError, match="at least 6 products"):
        trace(identity(9), products=5)
    with pytest.raises(ValueError, match="not finite"):
        inertia(from_dense(torch.full((2, 2), math.nan)))


# Seeds.


def test_seed_decides_and_the_global_random_state_is_neither_read_nor_moved() -> None:
    A = from_dense(symmetric_with(torch.linspace(-1, 2, 40)))

    def run(seed: int) -> tuple[Lanczos, Extremes, float]:
        return (
            lanczos(A, 6, seed=seed),
            extreme_eigenvalues(A, max_iter=6, seed=seed),
            negative_fraction(A, steps=6, seed=seed).value,
        )

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = run(3), run(4)
    assert torch.equal(first[0].tridiagonal.dense(), second[0].tridiagonal.dense())
    assert first[1:] == second[1:]
    assert first[1] != other[1]
    assert not torch.equal(first[0].tridiagonal.diagonal, other[0].tridiagonal.diagonal)
