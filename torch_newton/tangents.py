r"""The rows of a Jacobian as products of short vectors.

A weight matrix W that is used as A W, with row i of A belonging to one sample, has

.. math:: \partial z_m / \partial W = \sum_{i \to m} A_i \otimes C_i,

where C is what a backward pass from z leaves at the output of that product. So no row of the
Jacobian J need be formed for its products, nor for :math:`J J^T`.

All rows come multiplied by the square root of Q, so that :math:`\hat J^T \hat J` is the
Gauss-Newton matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .flat import flatten, unflatten
from .symmetric_product import add_pairs, add_product, mirror

NARROW = 256
"""Columns up to which blocks of rows are put side by side before they are multiplied."""


@dataclass(frozen=True)
class Factor:
    r"""Rows of the Jacobian for one parameter: :math:`J_m = \sum_k L_{mk} \otimes R_{mk}`.

    Attributes:
        left: R x K x a.
        right: R x K x b, or None for a parameter whose rows are the sums of L alone.
    """

    left: Tensor
    right: Tensor | None

    def push(self, v: Tensor) -> Tensor:
        """J v, R entries."""
        if self.right is None:
            return self._sums() @ v.reshape(-1)
        v = v.reshape(self.left.shape[2], self.right.shape[2])
        return ((self.left @ v) * self.right).sum((1, 2))

    def pull(self, u: Tensor) -> Tensor:
        """J^T u, a b entries."""
        if self.right is None:
            return u @ self._sums()
        weighted = self.left * u[:, None, None]
        return (weighted.flatten(0, 1).T @ self.right.flatten(0, 1)).reshape(-1)

    def dense(self) -> Tensor:
        """J, R x (a b)."""
        if self.right is None:
            return self._sums()
        if self.left.shape[1] == 1:
            return (self.left[:, 0, :, None] * self.right).flatten(1)
        return (self.left.mT @ self.right).flatten(1)

    def gram(self) -> Tensor:
        """J J^T, R x R."""
        return gram([self])

    def fits(self, param: Tensor) -> bool:
        """Whether its rows have as many entries as `param`."""
        b = 1 if self.right is None else self.right.shape[2]
        return self.left.shape[2] * b == param.numel()

    def is_small(self) -> bool:
        """Whether the rows themselves take no more memory than their factors."""
        if self.right is None:
            return self.left.shape[1] > 1
        uses, a, b = *self.left.shape[1:], self.right.shape[2]
        return a * b <= uses * (a + b)

    def _sums(self) -> Tensor:
        return self.left[:, 0] if self.left.shape[1] == 1 else self.left.sum(1)


@dataclass(frozen=True)
class Tangents:
    r"""A Jacobian J, R x P, held as factors; or as itself, where that is smaller.

    Attributes:
        factors: for each parameter, or None where no row depends on it.
        like: the parameters.
        rows: R.
    """

    factors: list[Factor | None]
    like: Sequence[Tensor]
    rows: int

    def push(self, v: Tensor) -> Tensor:
        """J v."""
        result = v.new_zeros(self.rows)
        for factor, piece in zip(self.factors, unflatten(v, self.like), strict=True):
            if factor is not None:
                result += factor.push(piece)
        return result

    def pull(self, u: Tensor) -> Tensor:
        """J^T u."""
        return flatten(
            torch.zeros_like(param) if factor is None else factor.pull(u)
            for factor, param in zip(self.factors, self.like, strict=True)
        )

    def gram(self) -> Tensor:
        """J J^T, R x R: the empirical neural tangent kernel of z."""
        factors = [factor for factor in self.factors if factor is not None]
        return gram(factors) if factors else self.like[0].new_zeros(self.rows, self.rows)

    def dense(self) -> Tensor:
        """J, R x P."""
        return torch.cat(
            [
                param.new_zeros(self.rows, param.numel()) if factor is None else factor.dense()
                for factor, param in zip(self.factors, self.like, strict=True)
            ],
            dim=1,
        )


def gram(factors: Sequence[Factor]) -> Tensor:
    r"""The sum of :math:`J J^T` over the factors, R x R, each the way that costs less.

    Either the rows are formed, or, of uses j and k,
    :math:`(L_j L_k^T) \circ (R_j R_k^T)` is.
    """
    size = factors[0].left.shape[0]
    total = factors[0].left.new_zeros(size, size)
    biases = {id(factor.left) for factor in factors if factor.right is None}
    narrow = []
    for factor in factors:
        if factor.right is not None and _in_pairs(factor):
            # A bias beside its weight has the same L, and ones for R.
            beside = factor.left.shape[1] == 1 and id(factor.left) in biases
            biases -= {id(factor.left)} if beside else set()
            add_pairs(total, factor.left, factor.right, 1.0 if beside else 0.0)
        elif factor.right is not None:
            rows = factor.dense()
            if rows.shape[1] > NARROW:
                add_product(total, rows)
            else:
                narrow.append(rows)
            del rows
    narrow += [f.dense() for f in factors if f.right is None and id(f.left) in biases]
    if narrow:
        add_product(total, narrow[0] if len(narrow) == 1 else torch.cat(narrow, 1))
    return mirror(total)


def _in_pairs(factor: Factor) -> bool:
    """Whether products of pairs of uses take fewer operations than the rows themselves."""
    if factor.right is None:
        return False
    (size, uses, a), b = factor.left.shape, factor.right.shape[2]
    return size * uses**2 * (a + b) < (size + 2 * uses) * a * b


Part = dict[int, Factor]
"""The rows of one term, by the number of the parameter."""


def joined(factors: Sequence[Factor]) -> Factor:
    """The sum of rows for one parameter, as their own numbers where these are fewer."""
    if len(factors) > 1:
        rights = [factor.right for factor in factors if factor.right is not None]
        if len(rights) == len(factors):
            factor = Factor(torch.cat([f.left for f in factors], 1), torch.cat(rights, 1))
        elif rights:
            factor = _formed(torch.stack([f.dense() for f in factors]).sum(0))
        else:
            factor = Factor(torch.cat([f.left for f in factors], 1), None)
    else:
        factor = factors[0]
    return _formed(factor.dense()) if factor.is_small() else factor


def _formed(rows: Tensor) -> Factor:
    return Factor(rows[:, None], None)


def stack(parts: Sequence[Part], params: Sequence[Tensor], sizes: Sequence[int]) -> Tangents:
    """The rows of several terms, of `sizes` rows each, one below the other."""
    if len(parts) == 1:
        return Tangents([parts[0].get(i) for i in range(len(params))], params, sizes[0])
    shared: dict[tuple[int, ...], Tensor] = {}
    factors = [_stacked([part.get(i) for part in parts], sizes, shared) for i in range(len(params))]
    return Tangents(factors, params, sum(sizes))


def _stacked(
    column: Sequence[Factor | None], sizes: Sequence[int], shared: dict[tuple[int, ...], Tensor]
) -> Factor | None:
    """The factors of one parameter, those of fewer uses filled up with zeros."""
    known = [factor for factor in column if factor is not None]
    if not known:
        return None
    rights = [None if factor is None else factor.right for factor in column]
    lefts = [None if factor is None else factor.left for factor in column]
    if any(factor.right is None for factor in known):
        rights = [None] * len(column)
        lefts = [
            None if f is None else f.left if f.right is None else f.dense()[:, None] for f in column
        ]
    # What a weight and its bias share they share afterwards, too.
    key = tuple(id(left) for left in lefts)
    if key not in shared:
        shared[key] = _filled(lefts, sizes)
    right = None if all(r is None for r in rights) else _filled(rights, sizes)
    return Factor(shared[key], right)


def _filled(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    known = [part for part in parts if part is not None]
    uses = max(part.shape[1] for part in known)
    if len(known) == len(parts) and all(part.shape[1] == uses for part in known):
        return torch.cat(known)
    full = known[0].new_zeros(sum(sizes), uses, known[0].shape[2])
    for part, rows in zip(parts, torch.split(full, list(sizes)), strict=True):
        if part is not None:
            rows[:, : part.shape[1]] = part
    return full
