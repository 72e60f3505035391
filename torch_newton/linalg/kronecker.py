r"""A positive semidefinite matrix that is diagonal in a Kronecker product of two bases.

On matrices X, a x b, which are the vectors of this space,

.. math:: K\,X = U\,\big(D \circ (U^T X V)\big)\,V^T

with orthogonal U, a x a, and V, b x b, and D >= 0, a x b. A Kronecker product
:math:`S \otimes A` has this form with the eigenvectors of S and A and the products of their
eigenvalues, and so K + lambda I is inverted, for every lambda, by four matrix products. With
:math:`D_{ij} = E[(u_i^T G v_j)^2]` it is, of all matrices diagonal in these bases, the closest in
Frobenius norm to the second moment of random matrices G (George et al. 2018, *Fast approximate
natural gradient descent in a Kronecker-factored eigenbasis*).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KroneckerDiagonal:
    """K, or G such matrices one after another on the diagonal of a larger one.

    Attributes:
        left: U, G x a x a; None for the identity.
        right: V, G x b x b; None for the identity.
        diagonal: D, G x a x b.
    """

    left: Tensor | None
    right: Tensor | None
    diagonal: Tensor

    def into(self, X: Tensor) -> Tensor:
        """U^T X V, for X of G x a x b."""
        return rotated(X, self.left, self.right)

    def back(self, X: Tensor) -> Tensor:
        """U X V^T, the inverse of `into`."""
        left = None if self.left is None else self.left.mT
        right = None if self.right is None else self.right.mT
        return rotated(X, left, right)

    def matvec(self, X: Tensor) -> Tensor:
        """K X."""
        return self.back(self.diagonal * self.into(X))

    def solve(self, X: Tensor, damping: float | Tensor) -> Tensor:
        """(K + damping I)^{-1} X."""
        return self.back(self.into(X) / (self.diagonal + damping))

    def trace(self) -> float:
        """The sum of the eigenvalues of K."""
        return float(self.diagonal.sum())


def rotated(X: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """U^T X V, without the factors that are None."""
    if left is not None:
        X = left.mT @ X
    return X if right is None else X @ right


def eigenbasis(moment: Tensor, basis: Tensor | None) -> Tensor:
    """Eigenvectors of symmetric matrices, G x n x n; or a step from a known basis towards them.

    A step is one of orthogonal iteration, Q R = M Q (Golub and Van Loan 2013, *Matrix
    computations*, section 8.2.4), which takes a tenth of the time of an eigendecomposition and
    follows a matrix that changes slowly (Vyas et al. 2024, *SOAP*).
    """
    if basis is None:
        eigenvectors: Tensor = torch.linalg.eigh(moment)[1].flip(-1)
        return eigenvectors
    step: Tensor = torch.linalg.qr(moment @ basis)[0]
    return step


def in_basis(moment: Tensor, basis: Tensor | None) -> Tensor:
    """The diagonal of U^T M U, G x n, for M of G x n x n, or of its diagonal if U is None."""
    if basis is None:
        return moment
    return ((moment @ basis) * basis).sum(-2)
