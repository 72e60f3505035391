r"""Whether the rows of a Jacobian, held as factors, take too much memory to be read at all.

A weight matrix of a x b that is used for n rows of operands, K = n / M for each of M samples, takes
:math:`R\,\min(K (a + b),\ a b)` numbers, and the filters of a convolution R a b. They may be

==========================  =====================================================================
P up to `cost.MAX_SIZE`     as many as there are, for at most `OUTPUTS` rows of a sample
at most `OUTPUTS` of them   `MAX_ENTRIES`, 2 P, or what is `COPIES` times in the user's bytes
any other                   `MAX_ENTRIES`, 2 P, or the same of bytes that the user has chosen
==========================  =====================================================================

whichever is most. With more rows of a sample than `OUTPUTS` a product with J and one with J^T take
more operations than one through autograd, whose cost does not depend on them: such rows are held by
default only where they are small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..graph.readers import find_uses
from ..graph.terms import Term
from ..graph.use import MAX_ENTRIES
from .cost import MAX_MEMORY, MAX_SIZE

VECTORS = 2
"""Vectors of P entries that factors may always take, however large P is. Chosen: a step holds five
besides, and reading, scaling and sampling take these rows about twice again."""

OUTPUTS = 4
"""Rows of a sample up to which rows may take the memory of a solve. Products with J and J^T take
4 P operations for each row, one through autograd 12 P for each sample, but a few more of them, as
it has no preconditioner. And where P is small enough for J^T J they may take whatever they take:
operands are in the closure's graph already, and cotangents are as many as the graph has of
outputs, for each row of a sample, so that for four outputs factors are some three times as large
as the graph. Who has the memory for a graph of a million samples has it for these factors."""

COPIES = 2
"""Times that the rows exist at once: where the terms of a loss are put together, in double
precision beside single, or in scaled variables."""


def obstacle(
    terms: Sequence[Term], params: Sequence[Tensor], max_memory: int | None = None
) -> str | None:
    """Why the rows are not to be held, a phrase; None where they may be.

    Beyond what is allowed iterations with products through autograd need less memory.

    Args:
        terms: of the loss, R rows in all.
        params: the P parameters.
        max_memory: bytes; None for `cost.MAX_MEMORY`.
    """
    rows, size = sum(term.like.numel() for term in terms), sum(param.numel() for param in params)
    always = max(MAX_ENTRIES, VECTORS * size)
    if rows * size <= always:  # as rows in full
        return None
    few = rows <= OUTPUTS * sum(_samples(term.like) for term in terms)
    if few and size <= MAX_SIZE:
        return None
    entries, itemsize = estimate(terms, params), params[0].element_size()
    allowed = always
    if few or max_memory is not None:
        allowed = max(allowed, held(itemsize, max_memory))
    if entries <= allowed:
        return None
    needed = math.ceil(entries) * COPIES * itemsize
    return f"{rows} rows that take {needed / COPIES:.1e} bytes: max_memory={needed} allows them"


def held(itemsize: int, max_memory: int | None = None) -> int:
    """Numbers of the rows that may be held, of so many bytes each; see `obstacle`."""
    return (MAX_MEMORY if max_memory is None else max_memory) // (COPIES * itemsize)


def estimate(terms: Sequence[Term], params: Sequence[Tensor]) -> float:
    """Numbers that the factors of the rows consist of."""
    rows = sum(term.like.numel() for term in terms)
    samples = sum(_samples(term.like) for term in terms)
    entries = 0.0
    for use in find_uses([term.z.node for term in terms], params).uses:
        numel = params[use.param].numel()
        if use.operand is None:
            # A bias has the cotangents of the weight beside it; a filter has rows in full.
            formed = use.index is None and params[use.param].ndim > 1
            entries += rows * numel if formed else 0
            continue
        n, b = use.operand.shape
        entries += rows * min(max(1.0, n / samples) * (numel / max(b, 1) + b), float(numel))
    return entries


def _samples(z: Tensor) -> int:
    """How many samples the outputs z are of, if the last of several dimensions counts C outputs."""
    return max(1, z.numel() // (z.shape[-1] if z.ndim > 1 else 1))
