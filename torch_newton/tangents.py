r"""The rows of a Jacobian, read off the autograd graph as products of two short vectors.

A weight matrix W that is used as A W, with row i of A belonging to one sample, has

.. math:: \partial z_m / \partial W = \sum_{i \to m} A_i \otimes C_i,

where C is what a backward pass from z leaves at the output of that product. So one pass gives
every sample's derivative at once, whatever the network, and however often W occurs: in a
physics-informed loss it also occurs in the differentiated backward passes. Which sample an operand
row belongs to is found by a second pass in which sample m has weight m + 1 in place of 1: the
ratio of the two names the sample, and where it is no number, rows are mixed and the graph cannot
be read in this way. A random product against autograd checks the whole.

All rows come multiplied by the square root of Q, so that :math:`\hat J^T \hat J` is the
Gauss-Newton matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .curvature import jacobian_at
from .flat import flatten, unflatten
from .graph import leaf, operands, saved, through_transposes
from .output_root import Root
from .residuals import Term

MAX_COLUMNS = 32
"""Outputs per sample up to which a term is read: each takes a backward pass."""


@dataclass(frozen=True)
class Factor:
    r"""Rows of the Jacobian for one parameter: :math:`J_m = \sum_k L_{mk} \otimes R_{mk}`.

    Attributes:
        left: R x K x a.
        right: R x K x b, or None for a parameter whose rows are the sums of L alone.
    """

    left: Tensor
    right: Tensor | None

    def fits(self, param: Tensor) -> bool:
        """Whether its rows have the shape of `param`: a x b, or a b entries."""
        shape = (self.left.shape[2], 1 if self.right is None else self.right.shape[2])
        return shape == param.shape or (param.ndim == 1 and shape[0] * shape[1] == len(param))

    def push(self, v: Tensor) -> Tensor:
        """J v, R entries."""
        if self.right is None:
            return self.left.sum(1) @ v.reshape(-1)
        v = v.reshape(self.left.shape[2], self.right.shape[2])
        return ((self.left @ v) * self.right).sum((1, 2))

    def pull(self, u: Tensor) -> Tensor:
        """J^T u, a b entries."""
        weighted = self.left * u[:, None, None]
        if self.right is None:
            return weighted.sum((0, 1))
        return (weighted.flatten(0, 1).T @ self.right.flatten(0, 1)).reshape(-1)

    def dense(self) -> Tensor:
        """J, R x (a b)."""
        if self.right is None:
            return self.left.sum(1)
        return (self.left.transpose(1, 2) @ self.right).flatten(1)

    def gram(self) -> Tensor:
        """J J^T, R x R, by whichever of two ways takes fewer operations."""
        if self.right is None:
            rows = self.left.sum(1)
            return rows @ rows.T
        (size, uses, a), b = self.left.shape, self.right.shape[2]
        if size * uses**2 * (a + b) > (size + uses) * a * b:
            rows = self.dense()
            return rows @ rows.T
        total = self.left.new_zeros(size, size)
        for j in range(uses):
            for k in range(j + 1):
                left = self.left[:, j] @ self.left[:, k].T
                pairs = left * (self.right[:, j] @ self.right[:, k].T)
                total += pairs if j == k else pairs + pairs.T
        return total


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
        total = self.like[0].new_zeros(self.rows, self.rows)
        for factor in self.factors:
            if factor is not None:
                total += factor.gram()
        return total

    def dense(self) -> Tensor:
        """J, R x P."""
        return torch.cat(
            [
                param.new_zeros(self.rows, param.numel()) if factor is None else factor.dense()
                for factor, param in zip(self.factors, self.like, strict=True)
            ],
            dim=1,
        )


def read_tangents(
    terms: Sequence[Term], params: Sequence[Tensor], roots: Sequence[Root]
) -> Tangents | None:
    """The scaled Jacobian of the terms' z; None where the graph holds what is not known."""
    parts = []
    for term, root in zip(terms, roots, strict=True):
        part = _read_term(term, params, root)
        if part is None:
            return None
        parts.append(part)
    tangents = _stack(parts, params)
    return tangents if _agrees(tangents, terms, params, roots) else None


def _agrees(
    tangents: Tangents, terms: Sequence[Term], params: Sequence[Tensor], roots: Sequence[Root]
) -> bool:
    """Whether one random combination of rows is what autograd says."""
    generator = torch.Generator().manual_seed(0)
    like = [term.like for term in terms]
    u = torch.randn(tangents.rows, generator=generator, dtype=torch.float64).to(like[0])
    pieces = [root.apply(piece) for root, piece in zip(roots, unflatten(u, like), strict=True)]
    expected = jacobian_at([term.z for term in terms], like, params).T @ flatten(pieces)
    tolerance = torch.finfo(u.dtype).eps ** 0.6 * float(torch.linalg.vector_norm(expected))
    return bool(torch.linalg.vector_norm(tangents.pull(u) - expected) <= tolerance)


def rows_by_autograd(
    terms: Sequence[Term], params: Sequence[Tensor], roots: Sequence[Root]
) -> Tangents:
    """The same Jacobian by one backward pass a row, all rows at once: any graph, but slowly."""
    parts = []
    for term, root in zip(terms, roots, strict=True):
        size = term.like.numel()
        units = torch.eye(size).to(term.like).reshape(size, *term.like.shape)
        units = torch.stack([root.apply(unit) for unit in units])
        grads = _batched_gradients(term.z, params, units)
        parts.append([None if g is None else Factor(g.reshape(size, 1, -1), None) for g in grads])
    return _stack(parts, params)


def _batched_gradients(
    z: GradientEdge, params: Sequence[Tensor], units: Tensor
) -> Sequence[Tensor | None]:
    def gradients(weights: Tensor, batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            [z],
            list(params),
            [weights],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )

    try:
        return gradients(units, True)
    except RuntimeError:  # an operation that cannot be vectorised
        each = [gradients(unit, False) for unit in units]
    return [
        None if column[0] is None else torch.stack([g for g in column if g is not None])
        for column in zip(*each, strict=True)
    ]


@dataclass(frozen=True)
class _Use:
    """One place where a parameter enters: its row of the Jacobian from cotangent and operand."""

    param: int
    output: GradientEdge
    operand: Tensor | None
    cotangent_is_left: bool
    columns: bool  # samples are columns of the output, not rows


def _read_term(term: Term, params: Sequence[Tensor], root: Root) -> list[Factor | None] | None:
    rows, columns = root.rows, root.columns
    uses = _find_uses(term.z.node, params)
    if not uses or columns > MAX_COLUMNS:
        return None
    edges = list(dict.fromkeys(use.output for use in uses))
    generator = torch.Generator().manual_seed(1)
    mixture = torch.randn(columns, generator=generator, dtype=torch.float64).to(term.like)
    if columns == 1:
        mixture.fill_(1.0)
    numbers = torch.arange(1, rows + 1).to(term.like)

    def cotangents(weights: Tensor) -> list[Tensor]:
        z = [term.z]
        found = torch.autograd.grad(z, edges, [weights.reshape(term.like.shape)], retain_graph=True)
        return [tensor.detach() for tensor in found]

    plain = cotangents(mixture.expand(rows, columns))
    numbered = cotangents(numbers[:, None] * mixture)
    by_column = [plain] if columns == 1 else [
        cotangents(torch.eye(columns).to(term.like)[c].expand(rows, columns))
        for c in range(columns)
    ]  # fmt: skip

    factors: list[Factor | None] = [None] * len(params)
    for use in uses:
        at = edges.index(use.output)
        place = _sample_of(
            _by_rows(plain[at], use.columns), _by_rows(numbered[at], use.columns), rows
        )
        if place is None:
            return None
        C = torch.stack([_by_rows(column[at], use.columns) for column in by_column], 1)
        factor = _factor(use, C, place, root)
        if not factor.fits(params[use.param]):
            return None
        known = factors[use.param]
        factors[use.param] = factor if known is None else _joined(known, factor)
    return factors


def _by_rows(cotangent: Tensor, columns: bool) -> Tensor:
    if columns:
        return cotangent.T
    return cotangent.reshape(cotangent.shape[0] if cotangent.ndim else 1, -1)


def _sample_of(plain: Tensor, numbered: Tensor, rows: int) -> Tensor | None:
    """For each operand row the sample that it belongs to; `rows` where z does not depend on it."""
    square = plain.square().sum(1)
    used = square > 0
    ratio = (plain * numbered).sum(1) / torch.where(used, square, torch.ones_like(square))
    sample = ratio.round()
    misfit = (numbered - sample[:, None] * plain).abs().amax(1)
    tolerance = torch.finfo(plain.dtype).eps ** 0.6 * rows * plain.abs().amax(1)
    in_range = (sample >= 1) & (sample <= rows)
    if not bool((~used | ((misfit <= tolerance) & in_range)).all()):
        return None
    return torch.where(used, sample.long() - 1, rows)


def _factor(use: _Use, C: Tensor, place: Tensor, root: Root) -> Factor:
    """The factor of one use, its operand rows sorted by sample; C is n x columns x width."""
    rows, columns, width = root.rows, *C.shape[1:]
    if len(place) == rows and bool((place == torch.arange(rows, device=place.device)).all()):
        left, right = C[:, :, None], use.operand if use.operand is None else use.operand[:, None]
    else:
        counts = torch.bincount(place, minlength=rows + 1)
        counts[rows] = 0
        uses = max(1, int(counts.max()))
        order = torch.argsort(place, stable=True)
        order = order[place[order] < rows]
        sample = place[order]
        first = torch.cumsum(counts, 0) - counts
        slot = torch.arange(len(order), device=place.device) - first[sample]
        left = C.new_zeros(rows, columns, uses, width)
        left[sample, :, slot] = C[order]
        right = None
        if use.operand is not None:
            right = C.new_zeros(rows, uses, use.operand.shape[1])
            right[sample, slot] = use.operand[order]
    left = root.mix(left).flatten(0, 1)
    if right is None:
        return Factor(left.sum(1, keepdim=True), None)
    right = right.repeat_interleave(columns, 0) if columns > 1 else right
    return Factor(left, right) if use.cotangent_is_left else Factor(right, left)


def _joined(one: Factor, other: Factor) -> Factor:
    if one.right is None or other.right is None:
        return Factor(one.left + other.left, None)
    return Factor(torch.cat([one.left, other.left], 1), torch.cat([one.right, other.right], 1))


def _stack(parts: Sequence[list[Factor | None]], params: Sequence[Tensor]) -> Tangents:
    """The terms' rows one below the other; terms of fewer uses are filled up with zeros."""
    sizes = [next(f.left.shape[0] for f in part if f is not None) for part in parts]
    factors: list[Factor | None] = []
    for i in range(len(params)):
        column = [part[i] for part in parts]
        model = max(
            (f for f in column if f is not None), key=lambda f: f.left.shape[1], default=None
        )
        if model is None or len(parts) == 1:
            factors.append(model)
            continue
        filled = [_filled(f, size, model) for f, size in zip(column, sizes, strict=True)]
        right = None
        if model.right is not None:
            right = torch.cat([r for _, r in filled if r is not None])
        factors.append(Factor(torch.cat([left for left, _ in filled]), right))
    return Tangents(factors, params, sum(sizes))


def _filled(factor: Factor | None, size: int, model: Factor) -> tuple[Tensor, Tensor | None]:
    def fill(part: Tensor | None, shape: torch.Size) -> Tensor:
        full = model.left.new_zeros(size, *shape[1:])
        if part is not None:
            full[:, : part.shape[1]] = part
        return full

    left = fill(None if factor is None else factor.left, model.left.shape)
    if model.right is None:
        return left, None
    return left, fill(None if factor is None else factor.right, model.right.shape)


def _find_uses(root: Node, params: Sequence[Tensor]) -> list[_Use] | None:
    """Every node behind `root` that takes a parameter; None where one of them is not known."""
    position = {id(param): i for i, param in enumerate(params)}

    def param_at(edge: GradientEdge | None) -> tuple[int, bool] | None:
        if edge is None:
            return None
        node, odd = through_transposes(edge)
        variable = leaf(node)
        known = None if variable is None else position.get(id(variable))
        return None if known is None else (known, odd)

    uses: list[_Use] = []
    seen, stack = {root}, [root]
    if leaf(root) is not None:
        return None
    while stack:
        node = stack.pop()
        edges = operands(node)
        slots = [param_at(edge) for edge in edges]
        if any(slot is not None for slot in slots):
            read = READERS.get(node.name())
            if read is None:
                return None
            for argument, slot in enumerate(slots):
                if slot is None:
                    continue
                use = read(node, argument, params[slot[0]], *slot)
                if use is None:
                    return None
                uses.append(use)
        for edge, slot in zip(edges, slots, strict=True):
            if edge is not None and slot is None and edge.node not in seen:
                seen.add(edge.node)
                stack.append(edge.node)
    return uses


Reader = Callable[[Node, int, Tensor, int, bool], _Use | None]


def _matmul(node: Node, argument: int, param: Tensor, index: int, odd: bool) -> _Use | None:
    """A @ B with W or its transpose as one operand; the other one's rows are samples."""
    other = saved(node, "self" if argument == 1 else "mat2")
    if other is None:
        return None
    output = GradientEdge(node, 0)
    if argument == 1:
        return _Use(index, output, other, odd, False)
    return _Use(index, output, other.T, not odd, True)


def _addmm(node: Node, argument: int, param: Tensor, index: int, odd: bool) -> _Use | None:
    """b + A @ B."""
    if saved(node, "alpha", 1) != 1 or saved(node, "beta", 1) != 1:
        return None
    output = GradientEdge(node, 0)
    if argument == 0:
        return None if odd or param.ndim != 1 else _Use(index, output, None, True, False)
    rows = saved(node, "mat1")
    if argument != 2 or rows is None:
        return None
    return _Use(index, output, rows, odd, False)


def _add(node: Node, argument: int, param: Tensor, index: int, odd: bool) -> _Use | None:
    """x + b with b broadcast over the rows."""
    if odd or param.ndim != 1 or (argument == 1 and saved(node, "alpha", 1) != 1):
        return None
    return _Use(index, GradientEdge(node, 0), None, True, False)


def _mv(node: Node, argument: int, param: Tensor, index: int, odd: bool) -> _Use | None:
    """A @ w for a vector w."""
    rows = saved(node, "self")
    if argument != 1 or rows is None:
        return None
    return _Use(index, GradientEdge(node, 0), rows, True, False)


READERS: dict[str, Reader] = {
    "AddBackward0": _add,
    "AddmmBackward0": _addmm,
    "MmBackward0": _matmul,
    "MvBackward0": _mv,
}
"""Nodes that take a parameter, and how their rows are read. One line adds an operation."""
