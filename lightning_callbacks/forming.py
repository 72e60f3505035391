"""Form a symmetric matrix by its products, a block of columns at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_newton import LinearOperator
from torch_newton.linalg.eigenvalue_signs import NotFiniteError

from .allowance import BLOCK, Allowance, OutOfTimeError
from .work import Unit, Work


def seconds_to_form(n: int, allowance: Allowance) -> float:
    """An estimate of what forming n columns, and the eigenvalues of the matrix, take.

    Columns are taken in blocks, of which the time is known once one was taken; before that, each
    is reckoned to take as long as a product alone.
    """
    columns = allowance.estimate("column", allowance.estimate("product"))
    return n * columns + seconds_to_diagonalise(n)


def seconds_to_diagonalise(n: int) -> float:
    """An estimate for n x n: 0.1 s at 1,024 on one core, and the cube of n elsewhere."""
    return float(0.1 * (n / 1024) ** 3)


def small_enough(H: LinearOperator, allowance: Allowance) -> Work[bool]:
    """Whether there is time to form H.

    Columns by the block may take a tenth of what products alone take, so a block is tried where
    none has been.
    """
    n, product = H.shape[0], allowance.estimate("product")
    untried = allowance.costs.of("column") is None and allowance.costs.of("product") is not None
    if n > BLOCK and untried and not allowance.plans(seconds_to_form(n, allowance)):
        if not allowance.plans(BLOCK * product):
            return False
        try:
            yield Unit("column", BLOCK * product, BLOCK)
        except OutOfTimeError:
            return False
        _ = H @ _columns(H, 0, BLOCK)
    return allowance.plans(seconds_to_form(n, allowance))


def formed(H: LinearOperator, allowance: Allowance) -> Work[Tensor | None]:
    """H as a float64 matrix, made symmetric; None where there is no time for all of its columns.

    In one go where that fits in a pause, as `dense_symmetric` forms it; else by blocks of
    `BLOCK` columns, which may be spread over several pauses.

    Args:
        H: symmetric, n x n. Its columns are timed as "column".
        allowance: the time that there is.

    Raises:
        NotFiniteError: H is not finite.
    """
    n = H.shape[0]
    guess = allowance.estimate("product")
    whole = allowance.fits(n * allowance.estimate("column", guess))
    size = n if whole else BLOCK
    blocks: list[Tensor] = []
    for first in range(0, n, size):
        count = min(size, n - first)
        try:
            yield Unit("column", guess * count, count)
        except OutOfTimeError:
            return None
        if whole:
            blocks.append(H.dense())
        else:
            blocks.append(H @ _columns(H, first, count))
    matrix = torch.cat(blocks, dim=1).double()
    if not bool(torch.isfinite(matrix).all()):
        raise NotFiniteError("the matrix is not finite: look for overflow in what it is made of")
    try:
        yield Unit("eigenvalues", seconds_to_diagonalise(n))
    except OutOfTimeError:
        return None
    return (matrix + matrix.T) / 2


def _columns(H: LinearOperator, first: int, count: int) -> Tensor:
    """So many columns of the identity."""
    columns = torch.zeros(H.shape[1], count, dtype=H.dtype, device=H.device)
    columns[first : first + count].fill_diagonal_(1)
    return columns
