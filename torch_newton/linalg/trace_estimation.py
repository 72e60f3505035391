"""The trace of an operator that is known by its products."""

from __future__ import annotations

import math
from collections.abc import Generator
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
    A = in_dtype(A, at_least_single(A.dtype))
    estimation = hutch_plus_plus(A, products // 3, seed)
    try:
        block = next(estimation)
        while True:
            block = estimation.send(A @ block)
    except StopIteration as end:
        found: Trace = end.value
    return found


def hutch_plus_plus(
    like: LinearOperator, third: int, seed: int = 0
) -> Generator[Tensor, Tensor, Trace]:
    """The estimate of `trace`, for who takes the products at times of their own.

    Args:
        like: of A's shape, n x n, in single precision at least.
        third: vectors in each of the three blocks, at least 2 and fewer than n.
        seed: of the random vectors.

    Yields:
        A block, n x third, in answer to which A times it must be sent.

    Returns:
        The estimate.
    """
    generator = torch.Generator().manual_seed(seed)
    S, G = (_signs(like.shape[0], third, generator, like) for _ in range(2))
    Q, _ = torch.linalg.qr((yield S))
    within = float((Q * (yield Q)).sum().double())
    G = G - Q @ (Q.T @ G)
    samples = (G * (yield G)).sum(0).double()
    error = float(samples.std()) / math.sqrt(third)
    return Trace(within + float(samples.mean()), error, 3 * third)


def _signs(rows: int, columns: int, generator: torch.Generator, A: LinearOperator) -> Tensor:
    bits = torch.randint(0, 2, (rows, columns), generator=generator)
    return (2 * bits - 1).to(A.device, A.dtype)
