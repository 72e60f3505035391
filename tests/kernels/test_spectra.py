"""Tangent kernels of modules and losses against dense linear algebra."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers import (
    Problem,
    assert_close,
    dense_jacobian,
    mlp,
    pinn_residual,
    pinn_residual_reference,
    problem_of,
    randn,
    regression,
)
from torch_newton import (
    KernelError,
    kernel_spectrum,
    tangent_gram,
)
from torch_newton.kernels.rows import jacobian_of, of_matrix, rows_of_loss, rows_of_outputs

pytestmark = pytest.mark.usefixtures("float64")

EPSILON = 2.3e-16
seeds = st.integers(0, 1000)


def kernel_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.integers(1, 9), seeds)
def test_gram_of_a_network_is_that_of_its_jacobian(
    depth: int, width: int, outputs: int, rows: int, seed: int
) -> None:
    problem = regression(2, *[width] * depth, outputs, rows=rows, seed=seed)
    J = problem.jacobian()
    gram = tangent_gram(problem.outputs(problem.params), problem.params)
    assert gram.shape == (rows * outputs, rows * outputs)
    assert kernel_error(gram, J @ J.T) < 1e-12


MODULES = {
    "convolution": (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)),
        (4, 1, 6, 6),
    ),
    "batch norm": (nn.Sequential(nn.Linear(3, 30), nn.BatchNorm1d(30), nn.Linear(30, 2)), (6, 3)),
    "layer norm": (nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2)), (6, 3)),
    "recurrent": (nn.GRU(3, 4, batch_first=True), (2, 3, 3)),
    "sequence": (nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), (4, 3, 3)),
}


@pytest.mark.parametrize("name", MODULES)
def test_gram_of_any_module(name: str) -> None:
    module, shape = MODULES[name]
    module = module.double()

    def output(x: Tensor) -> Tensor:
        z = module(x)
        return z[0] if isinstance(z, tuple) else z

    params = list(module.parameters())
    z = output(randn(*shape))
    J = torch.stack(
        [
            torch.cat([
                g.reshape(-1)
                for g in torch.autograd.grad(
                    entry, params, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ])
            for entry in z.reshape(-1)
        ]
    )  # fmt: skip
    assert kernel_error(tangent_gram(z, params), J @ J.T) < 1e-12


def test_gram_without_a_graph_is_refused_and_too_large_a_jacobian_is_not_formed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(KernelError, match="no graph"):
        tangent_gram(torch.ones(3), [torch.ones(1, requires_grad=True)])
    # Batch statistics mix samples, so that these rows must be formed.
    module = nn.Sequential(nn.Linear(3, 30), nn.BatchNorm1d(30), nn.Linear(30, 2)).double()
    params = list(module.parameters())
    z = module(randn(4, 3))
    expected = tangent_gram(z, params)
    monkeypatch.setattr("torch_newton.kernels.rows.JACOBIAN_ENTRIES", 10)
    with pytest.raises(KernelError, match="too large to form"):
        jacobian_of(z, params)
    assert kernel_error(tangent_gram(z, params), expected) < 1e-12


# Rows of a loss


def root_of(Q: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(Q)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def losses() -> dict[str, Problem]:
    x = randn(7, 2, seed=3)
    y = randn(7, 3, seed=4)
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 2])
    F = nn.functional
    return {
        "mean square": problem_of(mlp(2, 6, 3), x, lambda z: F.mse_loss(z, y)),
        "weighted squares": problem_of(
            mlp(2, 6, 3), x, lambda z: (torch.arange(1.0, 8)[:, None] * (z - y) ** 2).sum()
        ),
        "cross entropy": problem_of(mlp(2, 6, 3), x, lambda z: F.cross_entropy(z, labels)),
        "binary": problem_of(
            mlp(2, 6, 3), x, lambda z: F.binary_cross_entropy_with_logits(z, y.sigmoid())
        ),
    }


@pytest.mark.parametrize("name", losses())
def test_weighted_rows_have_the_gauss_newton_matrix(name: str) -> None:
    problem = losses()[name]
    rows, unrecognised = rows_of_loss(problem.value(), problem.params)
    assert rows is not None
    J, Q = problem.jacobian(), problem.output_hessian()
    assert_close(rows.plain.dense(), J, 1e-12)
    weighted = rows.weighted.dense()
    assert_close(weighted.T @ weighted, J.T @ Q @ J, 1e-12)
    values = torch.linalg.eigvalsh(Q)
    assert rows.rank == int((values > 1e-12 * values[-1]).sum())
    assert not unrecognised
    A = root_of(Q) @ J
    kappa = torch.linalg.eigvalsh(A @ A.T)[-rows.rank :]
    spectrum = kernel_spectrum(rows.weighted, epsilon=EPSILON, rank=rows.rank)
    assert spectrum.eigenvalues is not None
    assert_close(spectrum.eigenvalues, kappa, 1e-10)
    newton = spectrum.newton(0.3)
    assert newton.eigenvalues is not None
    assert_close(newton.eigenvalues, kappa / (kappa + 0.3), 1e-10)
    assert newton.smallest.value == pytest.approx(float(kappa[0] / (kappa[0] + 0.3)), abs=1e-10)


def test_samples_that_interact_in_the_loss() -> None:
    problem = problem_of(
        mlp(2, 5, 3), randn(4, 2), lambda z: torch.logsumexp(z.reshape(1, -1), 1)[0]
    )
    z = problem.outputs(problem.params)
    loss = -torch.log_softmax(z.reshape(1, -1), 1)[0, 2]
    rows, _ = rows_of_loss(loss, problem.params)
    assert rows is not None
    J, Q = problem.jacobian(), problem.output_hessian()
    weighted = rows.weighted.dense()
    assert_close(weighted.T @ weighted, J.T @ Q @ J, 1e-12)
    assert rows.rank == 11


def test_rows_of_a_physics_informed_loss_are_its_residuals() -> None:
    model, points, forcing = mlp(2, 6, 6, 1), randn(9, 2), randn(9)
    params = list(model.parameters())
    penalty = 1e-3 * sum(p.square().sum() for p in params)
    rows, _ = rows_of_loss(pinn_residual(model, points, forcing).square().mean() + penalty, params)
    assert rows is not None
    J = dense_jacobian(pinn_residual_reference(model, points, forcing), params)
    assert kernel_error(rows.plain.gram(), J @ J.T) < 1e-12


def test_a_loss_without_recognised_outputs_has_no_rows() -> None:
    x = randn(3).requires_grad_()
    assert rows_of_loss(x.abs().sum().exp(), [x]) == (None, ["ExpBackward0"])
    assert rows_of_loss(x.square().sum(), [x]) == (None, [])


# Spectra


def jacobian(matrix: Tensor) -> object:
    return of_matrix(matrix, [torch.zeros(matrix.shape[1])])


@given(st.integers(1, 12), st.integers(1, 12), seeds)
def test_full_spectrum(rows: int, columns: int, seed: int) -> None:
    J = randn(rows, columns, seed=seed)
    expected = torch.linalg.eigvalsh(J @ J.T)
    for entries in (0, 2**22):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch_newton.kernels.spectra.SINGULAR_VALUE_ENTRIES", entries)
            found = kernel_spectrum(jacobian(J), epsilon=EPSILON)
        assert found.eigenvalues is not None
        assert_close(found.eigenvalues, expected, 1e-12)
        for end, eigenvalue in ((expected[0], found.smallest), (expected[-1], found.largest)):
            assert abs(float(end) - eigenvalue.value) <= eigenvalue.error_bound + 1e-13
        if rows > columns:
            assert found.smallest.value == 0
            assert found.condition_number == math.inf


def test_small_eigenvalues_are_resolved_where_the_jacobian_is_formed() -> None:
    basis = torch.linalg.qr(randn(4, 4))[0]
    singular = torch.tensor([1.0, 1e-4, 1e-8, 1e-11])
    J = basis @ torch.diag(singular) @ torch.linalg.qr(randn(30, 4, seed=2))[0].T
    found = kernel_spectrum(jacobian(J), epsilon=EPSILON)
    for value, expected in zip(found.eigenvalues.flip(0), singular.square(), strict=True):
        assert float(value) == pytest.approx(float(expected), rel=1e-3)
    assert abs(found.smallest.value - 1e-22) <= found.smallest.error_bound < 1e-22
    assert found.condition_number == pytest.approx(1e22, rel=1e-2)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_extremes_beyond_the_budget_are_matrix_free(shape: tuple[int, int]) -> None:
    J = randn(*shape)
    expected = torch.linalg.eigvalsh(J @ J.T)
    found = kernel_spectrum(jacobian(J), epsilon=EPSILON, max_size=10)
    assert found.eigenvalues is None
    assert abs(found.largest.value - float(expected[-1])) <= found.largest.error_bound + 1e-12
    assert abs(found.smallest.value - float(expected[0])) <= found.smallest.error_bound + 1e-12


def test_rows_of_given_outputs_are_weighted_by_their_number() -> None:
    problem = regression(2, 4, 2, rows=5)
    rows = rows_of_outputs(problem.outputs(problem.params), problem.params)
    assert_close(rows.weighted.dense(), problem.jacobian() / math.sqrt(5))


@pytest.mark.slow
def test_the_benchmark_of_the_kernel_agrees_with_jacrev() -> None:
    command = [sys.executable, "-m", "examples.benchmarks.kernels"]
    sizes = ["--width=64", "--samples=128", "--repeats=1"]
    done = subprocess.run(
        [*command, *sizes],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    difference = float(done.stdout.split("largest difference ")[1].split()[0])
    assert difference < 1e-12
    # 40 times or more on an idle machine.
    assert float(done.stdout.splitlines()[2].split()[0]) > 3
