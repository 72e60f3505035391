"""What a step with an exact system costs beside one along Kronecker factors, in gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..curvature.base import Curvature
from ..curvature.linearization import Linearization
from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.indexed_factor import IndexedFactor
from ..preconditioners import cost
from ..step import Step
from .contest import STEP_COST

GRADIENT = 3.0
"""Evaluations in the time of a gradient: its backward pass has two products for each of theirs."""

TWICE = 3.0
"""Evaluations in the time of one that `Curvature.product_cost` counts for a product by autograd,
which reckons with two: in processor time such a product took 1.5 gradients on a language model of
0.8 million parameters, and 2.8 on a ResNet with batch norm."""

DOUBLE = 2.0
"""Operations in single precision, the unit, in the time of one in double, in which systems are
solved, and a loss of double precision is evaluated."""

OVERHEAD = 3e6
"""Operations in the time that an evaluation takes however small its matrices are: 0.07 ms at 4e10
a second. Networks of 500 parameters have a gradient of 0.2 ms."""

ELEMENTWISE = 40.0
"""Operations in the time that activations and their derivatives take for one output of a weight:
1 ns in single precision. For 3,500 points of a Poisson equation products are a third of 7 ms."""

OVERHEAD_ALONG_FACTORS, OVERHEAD_EXACT = 1.6e8, 2.6e8
"""The same of a step along Kronecker factors, and of an exact one: 4 ms and 6.5 ms."""

VECTORS = 2000.0
"""Operations in the time that an exact step takes for one parameter in vectors of P numbers in
double precision: 50 ns, by 64 rows of 269,000 parameters in 25 ms."""

PRODUCTS = 1.25
"""Operations in the time that the products of a step with rows take, over those of
`preconditioners.cost.product_operations`: 256 rows of these parameters take 45 ms."""


def cost_in_gradients(step: Step, curvature: Curvature, at: Linearization) -> float:
    """Passes, products with the curvature, and operations on vectors and rows.

    The unit is such that a step along Kronecker factors counts `STEP_COST`: on small networks the
    work that does not grow with them is most of both.
    """
    calls = step.closure_calls - at.evaluator.tests
    product = curvature.product_cost(at) * (TWICE if at.iterative is None else 1.0)
    # The backward pass of the gradient, and that for the Jacobian.
    passes = calls + 4.0 + product * step.products
    read = at.space if at.space is not None else at.low_rank
    if read is None or at.residuals is None:
        return passes / GRADIENT
    samples = sum(term.like.shape[0] if term.like.ndim else 1 for term in at.residuals.of_outputs)
    forward = samples * _entries(read.jacobian.factors)
    if at.start.gradient.dtype is torch.float64:
        forward *= DOUBLE
    evaluation = forward + OVERHEAD
    exact = passes * evaluation + OVERHEAD_EXACT + _operations(read.jacobian, step)
    return STEP_COST * exact / (STEP_COST * GRADIENT * evaluation + OVERHEAD_ALONG_FACTORS)


def _operations(jacobian: FactoredJacobian, step: Step) -> float:
    """On vectors of P numbers, on rows, and of a factor, whole or of low rank.

    With a scaling each attempt may enlarge D, and then takes another Gram matrix: six of them took
    ten times as long as one.
    """
    rows, size = jacobian.shape
    entry = cost.entry_operations(jacobian.factors, rows)
    if step.rank:
        factor = cost.low_rank_operations(rows, size, step.rank, entry)
    else:
        factor = cost.direct_operations(rows, size, entry)
    products = PRODUCTS * cost.product_operations(jacobian.factors, rows)
    factors = max(step.attempts, 1) if step.system.scaled else 1
    return VECTORS * size + products + DOUBLE * factor * factors


def _entries(factors: Sequence[Factor | IndexedFactor | None]) -> float:
    """Multiplications of a forward pass for one sample: of all uses of all weights, and around."""
    total = 0.0
    for factor in factors:
        if isinstance(factor, Factor):
            width = 1 if factor.right is None else factor.right.shape[2]
            total += factor.left.shape[1] * factor.left.shape[2] * (width + ELEMENTWISE)
    return total
