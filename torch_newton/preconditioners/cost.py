r"""What a damped Gauss-Newton solve costs, in operations and bytes, and which one is worth it.

Costs are counted and not timed, so that a run repeats exactly: in multiplications with addition,
from the shapes of the factors that the Jacobian is held as. With e of them for one entry of
:math:`J J^T`, n = min(R, P) and two factorisations a step, one for each lambda that it tries,

======================================  ===========================================
:math:`J J^T` and its Cholesky factor   :math:`\tfrac58 R^2 e + 2 R^3 / 6`
:math:`J^T J` and its Cholesky factor   :math:`\tfrac58 P^2 R + 2 P^3 / 6`
k columns of :math:`J J^T`, orthonormal :math:`R k e + R k^2`
======================================  ===========================================

where 5/8 is the part of a symmetric product that is computed (`linalg.gram.BLOCKS`). Measured on
two cores in double precision, all of these run at 40 to 50 thousand million operations a second
from 1,000 rows on, so that operations may be compared as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..linalg.factor import Factor
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.gram import NARROW, PAIR
from ..linalg.indexed_factor import PAIR as INDEXED_PAIR
from ..linalg.indexed_factor import IndexedFactor
from ..linalg.precision import solving_dtype

MAX_SIZE = 3000
"""The smaller of R and P up to which a Cholesky factor of that size is formed at each step,
whatever else would do: of 3,000 it takes 5e9 operations, some tenths of a second on one core, and
72 MB."""

MAX_MEMORY = 4 * 2**30
"""Bytes of the matrices that a solve forms, where the user does not say: a Cholesky factor of
some 13,000 rows in double precision. Chosen: what a machine has free on which a network is trained,
and a number, so that a run repeats on another machine."""

COPIES = 3
"""Matrices of n x n that are held at once: J J^T, the same plus lambda I, and its factor."""

RANK = 2500
"""Rank that an iterative solve is reckoned to need in the end. Measured: 500 to 1,000 for Burgers'
equation in two variables, 1,800 for an image of a sine network. Chosen above these, since too high
a guess costs no more than an exact factor does, which makes better steps: Poisson's equation in
five variables, 3,500 rows, is at 1e-3 after 34 steps with one, and at 7e-3 after 60 without."""

FACTORISATIONS = 2
"""A step's attempts, each with a lambda of its own: 1.3 to 2.5 where they were counted."""

SYMMETRIC = 5 / 8
"""Of a symmetric product the part that is computed."""


PRODUCT = 5
"""Operations of a large matrix product in the time of one operation of a product of J with a
vector, whose matrices are many and small. Measured for 10,456 x 7,851 with four uses of each
weight: 35 ms for 3.3e8 operations, and 37e9 a second."""

INNER = 3 / 2
"""Operations, over k^3, of what a factor of rank k takes for two values of lambda: a Cholesky
factor of F^T F + lambda I, which is a third, and its inverse for the effective dimension."""

SOLVES = 3
"""Systems solved with one factor: those of the attempts of a step, and of their corrections."""

SHARE_OF_TRACE = 1 / 30
r"""Of the trace that a factor of low rank leaves, what at most counts as the largest eigenvalue
that it leaves. Measured on Burgers' equation at ranks of 100 to 400: as a shift of the
preconditioner it takes no more iterations than 1/5 or nothing would."""

COVERED = 10.0
"""Trace left, over lambda, at which a factor is good enough: an eigenvalue that it leaves is then
a third of lambda (`SHARE_OF_TRACE`), which costs a seventh of an iteration more."""

DECIMAL = 2.0
"""Iterations of conjugate gradients for an energy error of one per cent, over the square root of
the condition number: ln(2 / 0.1) / 2 is 1.5 for a step, and a correction is solved as far."""


def entry_operations(factors: Sequence[Factor | None], rows: int) -> float:
    r"""Operations for one entry of :math:`J J^T`, the way that `linalg.gram.gram` takes.

    Args:
        factors: those of J, one for each parameter.
        rows: R.
    """
    total = 0.0
    for factor in factors:
        if factor is None:
            continue
        if isinstance(factor, IndexedFactor):
            # As if all rows of the table were used equally often.
            pairs = INDEXED_PAIR * factor.left.shape[1] ** 2 / factor.number
            total += factor.left.shape[2] * min(pairs, float(factor.number))
            continue
        uses, a = factor.left.shape[1], factor.left.shape[2]
        b = 1 if factor.right is None else factor.right.shape[2]
        formed = a * b
        if b == 1 or formed <= NARROW:
            total += formed
        else:
            total += min(formed, PAIR * uses**2 * (a + b)) + uses * formed / max(rows, 1)
    return total


def direct_operations(rows: int, size: int, entry: float | None = None) -> float:
    """Operations of the smaller Gram matrix and of its Cholesky factors, for one step.

    Args:
        rows: R.
        size: P.
        entry: operations for one entry of J J^T; P where it is not known.
    """
    n = min(rows, size)
    one = float(size if entry is None else entry) if rows <= size else float(rows)
    return SYMMETRIC * n**2 * one + FACTORISATIONS * n**3 / 6


def low_rank_operations(rows: int, size: int, rank: int, entry: float | None = None) -> float:
    """Operations of a factor of J J^T of a given rank, from columns of it; see `direct_operations`.

    The iterations that are then left are few, and are not counted.
    """
    rank = min(rank, rows, size)
    return rows * rank * float(size if entry is None else entry) + float(rows) * rank**2


def product_operations(factors: Sequence[Factor | None], rows: int) -> float:
    """The time of a product of J with a vector, in operations of a large matrix product."""
    sizes = [factor.left.shape[1] * factor.size for factor in factors if factor is not None]
    return float(PRODUCT * rows) * sum(sizes)


def share_of_trace(fall: float, block: int) -> float:
    """The largest eigenvalue that a factor leaves, over the trace that it leaves.

    Where each column makes that q times smaller it is the first term of a geometric series,
    1 - q of its sum; at most `SHARE_OF_TRACE`.

    Args:
        fall: by what factor the last block of columns has made the trace smaller.
        block: columns that it had.
    """
    return min(SHARE_OF_TRACE, 1 - math.pow(fall, 1 / max(block, 1)))


def worth_a_block(
    rows: int, product: float, rank: int, entry: float, left: float, fall: float, block: int
) -> bool:
    """Whether more columns of the kernel spare more iterations than they cost.

    Args:
        rows: R.
        product: `product_operations`, of which an iteration takes two.
        rank: k, columns so far.
        entry: operations for one entry of J J^T.
        left: the trace that they leave, over lambda.
        fall: by what factor the last block of columns has made it smaller.
        block: columns that this had, and that another would have.
    """
    largest = share_of_trace(fall, block)

    def iterations(left: float) -> float:
        return DECIMAL * math.sqrt(1 + largest * left)

    spared = iterations(left) - iterations(fall * left)
    price = block * (rows * (entry + 2.0 * rank) + 3.0 * INNER * rank**2)
    return SOLVES * spared * 2 * product > price


def largest_rank(jacobian: FactoredJacobian, max_memory: int | None = None) -> int:
    """The rank whose factor, R x k, fits, which is there twice while it grows."""
    rows, size = jacobian.shape
    memory = MAX_MEMORY if max_memory is None else max_memory
    return min(rows, size, memory // (2 * rows * jacobian.dtype.itemsize))


def direct_bytes(rows: int, size: int, itemsize: int) -> int:
    """Bytes of the matrices that a direct solve forms.

    Args:
        rows: R.
        size: P.
        itemsize: bytes of a number.
    """
    n = min(rows, size)
    return itemsize * COPIES * n**2


def fits(rows: int, size: int, itemsize: int, max_memory: int | None = None) -> bool:
    """Whether the matrices of a direct solve have the memory that they need.

    Args:
        rows: R.
        size: P.
        itemsize: bytes of a number.
        max_memory: bytes; `MAX_MEMORY` where the user does not say.
    """
    memory = MAX_MEMORY if max_memory is None else max_memory
    return direct_bytes(rows, size, itemsize) <= memory


def beyond_memory(jacobian: FactoredJacobian, max_memory: int | None = None) -> list[str]:
    """That the exact factor would be worth its operations and does not fit, a phrase; else none.

    Args:
        jacobian: J as it was read.
        max_memory: bytes; `MAX_MEMORY` where the user does not say.
    """
    (rows, size), entry = jacobian.shape, entry_operations(jacobian.factors, jacobian.rows)
    itemsize = solving_dtype(jacobian.dtype, jacobian.device).itemsize
    needed = direct_bytes(rows, size, itemsize)
    if fits(rows, size, itemsize, max_memory):
        return []
    if not worth_a_factor(rows, size, itemsize, entry=entry, max_memory=needed):
        return []
    n = min(rows, size)
    return [f"an exact factor of {n} x {n}: max_memory={needed} allows it"]


def worth_a_factor(
    rows: int,
    size: int,
    itemsize: int,
    *,
    entry: float | None = None,
    rank: int = RANK,
    max_memory: int | None = None,
) -> bool:
    """Whether the exact factor fits, and costs no more than one of low rank.

    Args:
        rows: R.
        size: P.
        itemsize: bytes of a number.
        entry: operations for one entry of J J^T; P where it is not known.
        rank: what an iterative solve would need.
        max_memory: bytes; `MAX_MEMORY` where the user does not say.
    """
    if not fits(rows, size, itemsize, max_memory):
        return False
    if min(rows, size) <= MAX_SIZE:
        return True
    direct = direct_operations(rows, size, entry)
    return direct <= low_rank_operations(rows, size, rank, entry)
