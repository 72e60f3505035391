"""The Newton tangent kernel against dense linear algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import randn, regression, symmetric_with
from tests.kernels.test_spectra import EPSILON, kernel_error, root_of
from torch_newton import SolveError, from_dense, hessian, newton_tangent_gram
from torch_newton.kernels import newton
from torch_newton.kernels.newton import newton_gram, newton_spectrum
from torch_newton.kernels.rows import of_matrix, rows_of_loss

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("way", ["decomposition", "formed", "row by row", "operator"])
@pytest.mark.parametrize("damping", [5.0, 1e-3])
def test_newton_spectrum_of_the_true_hessian(
    way: str, damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "MAX_FORMED", 0 if way == "row by row" else 4096)
    problem = regression(2, 6, 2, rows=8)
    rows, _ = rows_of_loss(problem.value(), problem.params)
    H = hessian(problem.value(), problem.params)
    dense = problem.hessian()
    A = root_of(problem.output_hessian()) @ problem.jacobian()
    kernel = A @ torch.linalg.solve(dense + damping * torch.eye(len(dense)), A.T)
    spectrum, gram = newton_spectrum(
        rows.weighted,
        H,
        damping,
        epsilon=EPSILON,
        max_size=4 if way == "operator" else 100,
        decomposition=torch.linalg.eigh(dense) if way == "decomposition" else None,
    )
    values = torch.linalg.eigvalsh(kernel)
    scale = float(values.abs().max())
    assert spectrum.smallest.value == pytest.approx(float(values[0]), abs=1e-6 * scale)
    assert spectrum.largest.value == pytest.approx(float(values[-1]), abs=1e-6 * scale)
    if way == "operator":
        assert gram is None
    else:
        assert kernel_error(gram, kernel) < 1e-7


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_newton_tangent_gram_is_the_definition(curvature: str, outputs: int) -> None:
    problem = regression(2, 5, outputs, rows=6)
    z = problem.outputs(problem.params)
    loss = problem.loss(z)
    gram = newton_tangent_gram(loss, z, problem.params, 0.4, curvature=curvature)
    J = problem.jacobian()
    H = problem.hessian() if curvature == "hessian" else problem.gauss_newton()
    assert kernel_error(gram, J @ torch.linalg.solve(H + 0.4 * torch.eye(len(H)), J.T)) < 1e-8
    with pytest.raises(ValueError, match="'hessian' or 'gauss_newton'"):
        newton_tangent_gram(loss, z, problem.params, 0.4, curvature="fisher")


@pytest.mark.parametrize("damping", [0.3, 2.5])
def test_indefinite_matrices_are_inverted_either_way(
    damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    H, A = torch.diag(torch.linspace(-1, 2, 12)), randn(5, 12)
    expected = A @ torch.linalg.solve(H + damping * torch.eye(12), A.T)
    J = of_matrix(A, [torch.zeros(3, 4)])
    for limit in (12, 11):
        monkeypatch.setattr(newton, "MAX_FORMED", limit)
        assert kernel_error(newton_gram(J, from_dense(H), damping), expected) < 1e-9


@pytest.mark.parametrize("entry", [-0.25, torch.nan])
@pytest.mark.parametrize("limit", [12, 11])
def test_matrices_that_have_no_inverse_raise(
    entry: float, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "MAX_FORMED", limit)
    H, J = torch.eye(12), of_matrix(randn(5, 12), [torch.zeros(3, 4)])
    H[3, 3] = entry
    with pytest.raises(SolveError):
        newton_gram(J, from_dense(H), 0.25)
    spectrum, gram = newton_spectrum(J, from_dense(H), 0.25, epsilon=EPSILON)
    assert gram is None
    assert spectrum.smallest.value != spectrum.smallest.value


def test_single_precision_gives_single_precision() -> None:
    H, A = torch.diag(torch.linspace(0.5, 2, 12)).float(), randn(5, 12).float()
    gram = newton_gram(of_matrix(A, [torch.zeros(3, 4).float()]), from_dense(H), 0.1)
    assert gram.dtype is torch.float32
    assert kernel_error(gram, A @ torch.linalg.solve(H + 0.1 * torch.eye(12).float(), A.T)) < 1e-5


@given(st.integers(0, 200), st.floats(-8, -1))
def test_the_bound_grows_where_the_damping_nearly_meets_an_eigenvalue(seed, exponent):
    damping = 0.5
    values = torch.linspace(-1, 2, 12)
    values[3] = -damping + 10**exponent
    H, J = symmetric_with(values, seed=seed), randn(5, 12, seed=seed)
    exact = torch.linalg.eigvalsh(J @ torch.linalg.inv(H + damping * torch.eye(12)) @ J.T)
    single = H.float().double(), J.float().double()
    found, _ = newton_spectrum(
        of_matrix(single[1], [torch.zeros(12)]),
        from_dense(single[0]),
        damping,
        epsilon=1.2e-7,
        decomposition=tuple(torch.linalg.eigh(single[0])),
    )
    if found.largest.error_bound < 0.1 * found.largest.value:  # the bound is of first order
        assert abs(found.largest.value - float(exact[-1])) <= found.largest.error_bound
