"""Matrices that are diagonal in a Kronecker product of bases, against dense ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import assert_close, randn
from torch_newton.linalg.kronecker import KroneckerDiagonal, eigenbasis, in_basis

sizes = st.integers(1, 4)


def basis(groups: int, n: int, seed: int) -> Tensor:
    return torch.linalg.qr(randn(groups, n, n, seed=seed))[0]


def dense(K: KroneckerDiagonal) -> Tensor:
    groups, a, b = K.diagonal.shape
    blocks = []
    for j in range(groups):
        U = torch.eye(a, dtype=torch.float64) if K.left is None else K.left[j]
        V = torch.eye(b, dtype=torch.float64) if K.right is None else K.right[j]
        W = torch.kron(U.contiguous(), V.contiguous())
        blocks.append(W @ torch.diag(K.diagonal[j].reshape(-1)) @ W.T)
    return torch.block_diag(*blocks)


@given(sizes, sizes, sizes, st.booleans(), st.booleans(), st.integers(0, 1000))
def test_products_and_solutions_are_those_of_the_dense_matrix(
    groups: int, a: int, b: int, left: bool, right: bool, seed: int
) -> None:
    K = KroneckerDiagonal(
        basis(groups, a, seed) if left else None,
        basis(groups, b, seed + 1) if right else None,
        randn(groups, a, b, seed=seed + 2).square(),
    )
    matrix, X = dense(K), randn(groups, a, b, seed=seed + 3)
    assert_close(K.matvec(X).reshape(-1), matrix @ X.reshape(-1))
    damped = matrix + 0.1 * torch.eye(len(matrix), dtype=torch.float64)
    assert_close(K.solve(X, 0.1).reshape(-1), torch.linalg.solve(damped, X.reshape(-1)))
    assert_close(K.back(K.into(X)), X)
    assert K.trace() == pytest.approx(float(matrix.trace()))


@given(sizes, sizes, st.floats(1e-6, 10), st.integers(0, 1000))
def test_a_kronecker_product_is_inverted_by_its_eigenbases(
    a: int, b: int, damping: float, seed: int
) -> None:
    S, A = (M.mT @ M for M in (randn(1, a + 2, a, seed=seed), randn(1, b + 2, b, seed=seed + 1)))
    U, V = eigenbasis(S, None), eigenbasis(A, None)
    D = in_basis(S, U)[:, :, None] * in_basis(A, V)[:, None, :]
    X = randn(1, a, b, seed=seed + 2)
    matrix = torch.kron(S[0], A[0]) + damping * torch.eye(a * b, dtype=torch.float64)
    found = KroneckerDiagonal(U, V, D).solve(X, damping)
    assert_close(found.reshape(-1), torch.linalg.solve(matrix, X.reshape(-1)), tol=1e-8)


def test_orthogonal_iteration_tends_to_the_eigenvectors() -> None:
    Q = basis(1, 5, 0)
    M = Q * torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0], dtype=torch.float64) @ Q.mT
    found = basis(1, 5, 1)
    for _ in range(60):
        found = eigenbasis(M, found)
    assert_close(found.mT @ found, torch.eye(5, dtype=torch.float64)[None])
    assert_close((found.mT @ Q).abs(), torch.eye(5, dtype=torch.float64)[None])
