r"""The damped inverse of a Gauss-Newton matrix from a factor of low rank of its kernel.

With :math:`F F^T \approx J J^T` of k columns by randomly pivoted Cholesky
(`linalg.pivoted_cholesky`) and V the k orthonormal combinations of the chosen rows of J, the matrix
:math:`V^T F^T F V` is that part of :math:`J^T J`, and

.. math:: M = V^T (F^T F + \lambda I)^{-1} V + (I - V^T V) / (\lambda + \epsilon)

preconditions :math:`J^T J + \lambda I` (as Frangella, Tropp and Udell 2023, *Randomized Nyström
preconditioning*, do for a space of random vectors). Its condition is about
:math:`1 + \|J J^T - F F^T\| / \lambda`, and few iterations are left once the rank is above the
effective dimension :math:`\operatorname{tr} K (K + \lambda I)^{-1}`, whatever R and P are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..graph.reading import Reading
from ..linalg.conjugate_gradient import conjugate_gradient
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.gram import symmetric_product
from ..linalg.operators import LinearOperator, damped, in_dtype, symmetric
from ..linalg.pivoted_cholesky import BLOCK, PivotedCholesky
from . import cost
from .damped_inverse import cholesky
from .linearized_loss import LinearizedLoss, TargetAt
from .scaling import Scaling

LOOSE = 4.0
"""Rank, over the effective dimension, from which the rows of a factor are not proposed again: of
rows drawn for their own batch 1.5 to 2 times as many were needed where it was measured, and of
rows proposed for another batch more and more would be."""

CORRECTED_TO = 0.1
"""Relative energy error of the second-order correction: it is small beside the step itself."""

CORRECTION_ITERATIONS = 20
"""Most iterations of a correction, in which the energy error falls to a hundredth for condition
numbers up to 180; without a correction lambda is raised, which is what a harder system needs."""


class LowRankSpace:
    """A Gauss-Newton matrix as its per-sample Jacobian, and its damped inverse by iteration.

    Attributes:
        jacobian: R x P, with the square root of Q multiplied in.
        target, target_at, shift, reading, exact: see `FunctionSpace`.
        max_memory: bytes; None for `cost.MAX_MEMORY`.
        proposed: rows to choose from first, those of the last step; `kept` says which to propose
            next. Where the batch is the same they are as good as any, in a single pass.
    """

    def __init__(
        self,
        jacobian: FactoredJacobian,
        target: Tensor,
        target_at: TargetAt = lambda loss: None,
        shift: Tensor | None = None,
        reading: Reading | None = None,
        max_memory: int | None = None,
        proposed: Sequence[int] = (),
        exact: bool = True,
    ) -> None:
        self.jacobian = jacobian
        self.target = target
        self.target_at = target_at
        self.shift = shift
        self.reading = reading
        self.exact = exact
        self.max_memory = max_memory
        self.proposed: tuple[int, ...] = tuple(proposed)
        self._last: LowRankInverse | None = None
        self._inner: Tensor | None = None

    @classmethod
    def of(
        cls, found: LinearizedLoss, max_memory: int | None = None, proposed: Sequence[int] = ()
    ) -> LowRankSpace:
        """That of a loss as it was read."""
        known = (found.target, found.target_at, found.shift, found.reading)
        return cls(found.jacobian, *known, max_memory, proposed, found.exact)

    def times(self, number: float) -> LowRankSpace:
        """The same of the loss times the square of a number."""

        def target_at(loss: Tensor) -> Tensor | None:
            found = self.target_at(loss)
            return None if found is None else found * number

        shift = None if self.shift is None else self.shift * number**2
        known = (self.target * number, target_at, shift, self.reading)
        jacobian = self.jacobian.times(number)
        return LowRankSpace(jacobian, *known, self.max_memory, self.proposed, self.exact)

    def scaled(self, scaling: Scaling) -> LowRankSpace:
        r"""The same in the variables :math:`\varphi = D^{1/2} \theta`, of another kernel."""
        jacobian, square = scaling.apply(self.jacobian), scaling.vector.square()
        shift = None if self.shift is None else square * self.shift
        known = (self.target, self.target_at, shift, self.reading)
        return LowRankSpace(jacobian, *known, self.max_memory, self.proposed, self.exact)

    @property
    def dtype(self) -> torch.dtype:
        """That of the rows."""
        return self.jacobian.dtype

    @property
    def whole(self) -> bool:
        """Whether its matrix is that of all parameters, and of the loss's own Q."""
        return self.shift is None and self.exact

    @cached_property
    def cholesky(self) -> PivotedCholesky:
        """The factor of the kernel, which grows as lambda falls."""
        return PivotedCholesky(self.jacobian)

    def gauss_newton(self) -> LinearOperator:
        """The Gauss-Newton matrix of all rows, P x P."""
        return self.jacobian.normal()

    def operator(self, damping: float) -> LinearOperator:
        """The preconditioner for one lambda, P x P."""
        return self.at(damping).operator()

    def at(self, damping: float) -> LowRankInverse:
        """The inverse for one lambda, with the rank that is worth its cost there.

        Without damping the matrix may be singular, and rounding of it is put in its place.
        """
        factor = self.cholesky
        if damping == 0:
            damping = torch.finfo(factor.left.dtype).eps * factor.trace or 1.0
        rows, factors = self.jacobian.rows, self.jacobian.factors
        entry = cost.entry_operations(factors, rows)
        product = cost.product_operations(factors, rows)
        limit = cost.largest_rank(self.jacobian, self.max_memory)
        while not factor.exhausted and factor.rank < limit:
            left = factor.trace_left / damping
            last = (factor.fall, factor.block)
            if not cost.worth_a_block(rows, product, factor.rank, entry, left, *last):
                break
            first = self.proposed[:limit] if factor.rank == 0 else ()
            factor.extend(min(BLOCK, limit - factor.rank), first or None)
        self._last = LowRankInverse(self, damping)
        return self._last

    @property
    def kept(self) -> tuple[int, ...]:
        """The rows to propose at the next step: as many as the last lambda called for.

        None of them where they are many more than it takes, as rows of another batch come to be.
        """
        factor, last = self.cholesky, self._last
        if not factor.rank or last is None:
            return ()
        if factor.rank > LOOSE * (1 + last.effective_dimension):
            return ()
        left = factor.trace - factor.factor.square().sum(0).cumsum(0)
        needed = int((left > cost.COVERED * last.damping).sum()) + 1
        return tuple(factor.pivots[:needed])

    def inner(self) -> Tensor:
        """F^T F, k x k, in double precision."""
        rank = self.cholesky.rank
        if self._inner is None or len(self._inner) != rank:
            self._inner = symmetric_product(self.cholesky.factor.T).double()
        return self._inner


class LowRankInverse:
    """What inverts the Gauss-Newton matrix plus lambda I, for one lambda.

    Attributes:
        space: the rows.
        damping: lambda.
        rank: k.
    """

    def __init__(self, space: LowRankSpace, damping: float) -> None:
        self.space = space
        self.damping = damping
        factor = space.cholesky
        self.rank: int = factor.rank
        self._rest = damping + cost.share_of_trace(factor.fall, factor.block) * factor.trace_left
        # Of positive numbers alone where rounding is larger than lambda.
        self._core = cholesky(space.inner(), damping)
        self._rows, self._triangle = factor.rows, factor.triangle

    @cached_property
    def effective_dimension(self) -> float:
        """tr K (K + lambda I)^{-1} of the factor with this rank."""
        left = float(torch.cholesky_inverse(self._core).diagonal().sum()) if self.rank else 0.0
        return max(0.0, self.rank - self.damping * left)

    def operator(self, dtype: torch.dtype | None = None) -> LinearOperator:
        """M, P x P, symmetric positive definite, for vectors of a given precision."""
        jacobian = self.space.jacobian
        size, like = jacobian.shape[1], jacobian.like[0]
        M = symmetric(size, self._product, dtype=like.dtype, device=like.device)
        return in_dtype(M, dtype or like.dtype)

    def correction(self, remainder: Tensor) -> Tensor:
        r"""The step :math:`-(\hat J^T \hat J + \lambda I)^{-1} \hat J^T e` for R entries e, by
        iteration to `CORRECTED_TO`.
        """
        A = damped(self.space.gauss_newton(), self.damping)
        b = -self.space.jacobian.rmatvec(remainder)
        M, most = self.operator(), CORRECTION_ITERATIONS
        return conjugate_gradient(A, b, M, tol=CORRECTED_TO, max_iter=most, energy=True).x

    def _product(self, v: Tensor) -> Tensor:
        rest = v / self._rest
        if self.space.shift is not None:
            # Parameters that J leaves out: the rows have zeros there.
            rest = torch.where(self.space.shift > 0, v / (self.damping + self.space.shift), rest)
        if not self.rank:
            return rest
        L = self._triangle
        inner = self._rows.matvec(v).double().unsqueeze(1)
        inner = torch.linalg.solve_triangular(L, inner, upper=False)
        inner = torch.cholesky_solve(inner, self._core) - inner / self._rest
        inner = torch.linalg.solve_triangular(L.T, inner, upper=True)
        return rest + self._rows.rmatvec(inner.squeeze(1).to(v.dtype))
