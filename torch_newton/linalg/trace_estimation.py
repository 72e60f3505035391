"""The trace of an operator that is known by its products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import LinearOperator, check_square, in_dtype
from .precision import at_least_single


@dataclass(frozen=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        value: the estimate.
        standard_error: of the estimate, from the spread of the samples; the error of rounding
            where the trace was summed rather than sampled.
        products: products taken.
    """

    value: float
    standard_error: float
    products: int


def trace(A: LinearOperator, *, products: int = 30, seed: int = 0) -> Trace:
    r"""The trace of a symmetric operator, by the estimator Hutch++.

    A third of the products finds an orthonormal Q that spans most of A's range, a third gives
    :math:`\mathrm{tr}(Q^T A Q)` exactly, and a third estimates the rest, the mean of
    :math:`g^T (I - Q Q^T) A (I - Q Q^T) g` over random signs g (Meyer, Musco, Musco, Woodruff
    2021, *Hutch++: optimal stochastic trace estimation*). The standard error is that of the last
    part, the only random one. With n products or more the diagonal is summed.

    Args:
        A: symmetric, n x n.
        products: at most so many; the default is chosen by cost, that of 60 gradients.
        seed: of the random vectors.

    Raises:
        ValueError: A is not square, or there are fewer than 6 products: a third of them must be
            two samples at least, or there is no spread to take the error from.
    """
    check_square(A)
    rows = A.shape[0]
    if products < 6:
        raise ValueError(f"trace needs at least 6 products to know its error, not {products}")
    if rows <= products:
        diagonal = A.dense().diagonal().double()
        rounding = rows * torch.finfo(A.dtype).eps * float(diagonal.abs().sum())
        return Trace(float(diagonal.sum()), rounding, rows)
    third = products // 3
    generator = torch.Generator().manual_seed(seed)
    A = in_dtype(A, at_least_single(A.dtype))
    S, G = (_signs(rows, third, generator, A) for _ in range(2))
    Q, _ = torch.linalg.qr(A @ S)
    within = float((Q * (A @ Q)).sum().double())
    G = G - Q @ (Q.T @ G)
    samples = (G * (A @ G)).sum(0).double()
    error = float(samples.std()) / math.sqrt(third)
    return Trace(within + float(samples.mean()), error, 3 * third)


def _signs(rows: int, columns: int, generator: torch.Generator, A: LinearOperator) -> Tensor:
    bits = torch.randint(0, 2, (rows, columns), generator=generator)
    return (2 * bits - 1).to(A.device, A.dtype)
