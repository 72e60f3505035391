"""What a step with an exact system costs beside one along Kronecker factors, in gradients."""

from __future__ import annotations

from collections.abc import Sequence

from ..curvature.base import Curvature
from ..curvature.linearization import Linearization
from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.indexed_factor import IndexedFactor
from ..preconditioners import cost
from ..step import Step

GRADIENT = 3.0
"""Evaluations in the time of a gradient: its backward pass has two products for each of theirs."""

DOUBLE = 2.0
"""Operations in single precision in the time of one in double, in which systems are solved."""


OVERHEAD = 1e7
"""Operations in the time that an evaluation takes however small its matrices are, 0.25 ms."""


def cost_in_gradients(step: Step, curvature: Curvature, at: Linearization) -> float:
    """Passes, products with the curvature, and operations on the system beside those of a gradient.

    On five benchmark problems whose exact steps take 2 to 130 gradients, as processor time, it errs
    by a factor of two at most.
    """
    calls = step.closure_calls - at.evaluator.tests
    # The backward pass of the gradient, and that for the Jacobian.
    passes = calls + 4.0 + curvature.product_cost(at) * step.products
    read = at.space if at.space is not None else at.low_rank
    if read is None or at.residuals is None:
        return passes / GRADIENT
    samples = sum(term.like.shape[0] if term.like.ndim else 1 for term in at.residuals.of_outputs)
    forward = samples * _entries(read.jacobian.factors)
    operations = _operations(read.jacobian, step.rank)
    return (passes + DOUBLE * operations / (forward + OVERHEAD)) / GRADIENT


def _operations(jacobian: FactoredJacobian, rank: int) -> float:
    """Of a factor, whole or of low rank."""
    rows, size = jacobian.shape
    entry = cost.entry_operations(jacobian.factors, rows)
    if rank:
        return cost.low_rank_operations(rows, size, rank, entry)
    return cost.direct_operations(rows, size, entry)


def _entries(factors: Sequence[Factor | IndexedFactor | None]) -> float:
    """Multiplications of a forward pass for one sample: of all uses of all weights."""
    total = 0.0
    for factor in factors:
        if isinstance(factor, Factor):
            width = 1 if factor.right is None else factor.right.shape[2]
            total += factor.left.shape[1] * factor.left.shape[2] * width
    return total
