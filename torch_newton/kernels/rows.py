r"""The rows of J = dz/dtheta that a tangent kernel is made of.

They are read off the autograd graph as per-sample factors (`graph.ladder`), which takes a few
backward passes for all of them and makes :math:`J J^T` a sum of products of small Gram matrices;
the columns of parameters for which that fails are formed by batched backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from ..autodiff.products import jacobian_at
from ..graph.guard import warn_unreadable
from ..graph.ladder import read_jacobian
from ..graph.loss_curvature import OutputHessianRoot, output_hessian_root
from ..graph.reading import Request
from ..graph.residuals import Residuals, Term, read_residuals
from ..linalg.factored_jacobian import Factor, FactoredJacobian
from ..linalg.flat import flatten
from ..linalg.precision import at_least_single

JACOBIAN_ENTRIES = 2**27
"""At most so many entries of J are formed, one GiB in double precision."""


class KernelError(ValueError):
    """The kernel cannot be had in the way asked for; the message says what to do."""


class TooManyPassesError(KernelError):
    """The Jacobian takes more backward passes than were allowed."""


@dataclass(frozen=True)
class Rows:
    r"""The outputs z of a loss, as rows.

    Attributes:
        plain: J, R x P.
        weighted: :math:`Q^{1/2} J`, or :math:`F^T J` with :math:`Q = F F^T`: for eigenvalues
            both serve.
        scale: c where :math:`Q = c^2 I`, so that the one is c times the other; None elsewhere.
        rank: of Q: how many directions of the outputs the loss sees. A softmax does not see a
            shift common to all logits.
    """

    plain: FactoredJacobian
    weighted: FactoredJacobian
    scale: float | None
    rank: int

    def in_single(self) -> Rows:
        """The same rows in single precision, if they are in a narrower one."""
        dtype = at_least_single(self.plain.dtype)
        return Rows(self.plain.to(dtype), self.weighted.to(dtype), self.scale, self.rank)


def jacobian_of(
    outputs: Tensor, params: Sequence[Tensor], max_passes: float = math.inf
) -> FactoredJacobian:
    """J of any outputs, R x P, its rows in the order of ``outputs.reshape(-1)``.

    Args:
        outputs: with their graph; the first dimension counts samples.
        params: the P parameters.
        max_passes: backward passes, one a row, by which J may be formed.

    Raises:
        KernelError: the outputs have no graph; or the graph is one whose rows must be formed,
            and they have more than `JACOBIAN_ENTRIES` entries.
        TooManyPassesError: or are more than `max_passes`.
    """
    if not outputs.requires_grad:
        raise KernelError(
            "the outputs have no graph: compute them from the parameters, and not under no_grad"
        )
    edge = get_gradient_edge(outputs)
    like = torch.zeros_like(outputs)
    term = Term(edge, like, edge, like)
    return _jacobian([term], params, max_passes=max_passes)


def _jacobian(
    terms: Sequence[Term],
    params: Sequence[Tensor],
    weighted: tuple[FactoredJacobian, Sequence[OutputHessianRoot]] | None = None,
    max_passes: float = math.inf,
) -> FactoredJacobian:
    """J of all parameters: read off the graph, or formed where that is not possible.

    Args:
        terms: with R outputs in all.
        params: the P parameters.
        weighted: J and the square root of each term's Q, where Q^{1/2} J is wanted.
        max_passes: backward passes, one a row, by which J may be formed.

    Raises:
        KernelError: what must be formed has more than `JACOBIAN_ENTRIES` entries.
        TooManyPassesError: it has more than `max_passes` rows.
    """
    roots = [_identity(term) for term in terms] if weighted is None else weighted[1]
    # Rows are formed below, in batches that fit the caches.
    reading = read_jacobian(Request(terms, params, roots, max_rowwise=0))
    warn_unreadable(reading.complaint(params) if reading.failure else None)
    factors: list[Factor | None] = [None] * len(params)
    if reading.jacobian is not None:
        factors = list(reading.jacobian.factors)
    if reading.left_out:
        left_out = [params[i] for i in reading.left_out]
        if weighted is None:
            J = _formed(terms, left_out, max_passes)
        else:
            plain = [weighted[0].factors[i] for i in reading.left_out]
            J = _mixed(FactoredJacobian(plain, left_out, weighted[0].rows).dense(), roots)
        for i, factor in zip(reading.left_out, of_matrix(J, left_out).factors, strict=True):
            factors[i] = factor
    return FactoredJacobian(factors, params, sum(term.like.numel() for term in terms))


def _formed(terms: Sequence[Term], params: Sequence[Tensor], max_passes: float) -> Tensor:
    """J by one backward pass a row, in batches.

    Raises:
        KernelError: there are more than `JACOBIAN_ENTRIES` entries.
        TooManyPassesError: there are more than `max_passes` rows.
    """
    J = jacobian_at([term.z for term in terms], [term.like for term in terms], params)
    rows, columns = J.shape
    if rows > max_passes:
        raise TooManyPassesError(f"{rows} rows take as many backward passes, and not {max_passes}")
    if rows * columns > JACOBIAN_ENTRIES:
        raise KernelError(
            f"the graph of these outputs cannot be read sample by sample, and their Jacobian of "
            f"{rows} x {columns} is too large to form: take fewer samples, or the extreme "
            "eigenvalues of tangent_kernel(outputs, params), which needs products only"
        )
    return J.T.dense().T


def of_matrix(J: Tensor, params: Sequence[Tensor]) -> FactoredJacobian:
    """A Jacobian in memory, R x P."""
    pieces = torch.split(J, [param.numel() for param in params], dim=1)
    return FactoredJacobian([Factor(piece[:, None], None) for piece in pieces], params, len(J))


def rows_of_loss(
    loss: Tensor,
    params: Sequence[Tensor],
    known: FactoredJacobian | None = None,
    max_passes: float = math.inf,
) -> tuple[Rows | None, list[str]]:
    """The rows of the outputs that `find_residuals` reads off the loss's graph.

    Those of a physics-informed loss are its residuals. Penalties on the parameters themselves
    are no outputs, and are left out.

    Args:
        loss: a scalar with its graph.
        params: the P parameters.
        known: the weighted rows, where a step of the optimizer has read them already.
        max_passes: backward passes, one a row, by which they may be formed.

    Returns:
        The rows, None where no outputs were found, and the names of the nodes at which the
        search for them gave up.

    Raises:
        KernelError: the rows must be formed, and are too many.
        TooManyPassesError: or are more than `max_passes`.
    """
    found = read_residuals(loss)
    terms = found.of_outputs
    if not terms:
        return None, found.unrecognised
    roots = [output_hessian_root(term) for term in terms]
    found_roots = [root for root in roots if root is not None]
    diagonal = len(found_roots) == len(roots) and all(r.matrix.ndim == 2 for r in found_roots)
    scale = flatten(root.matrix for root in found_roots) if diagonal else None
    if known is not None and scale is not None and known.rows == len(scale) and bool(scale.all()):
        plain = _scaled(known, 1 / scale)
    else:
        plain, known = _jacobian(terms, params, max_passes=max_passes), None
    if len(found_roots) < len(roots):
        if plain.rows > max_passes:
            raise TooManyPassesError(f"Q takes {plain.rows} products, and not {max_passes}")
        weighted, rank = _weighted_densely(plain, terms, params)
        return Rows(plain, weighted, None, rank).in_single(), found.unrecognised
    rank = sum(_rank(root) for root in found_roots)
    if scale is not None:
        constant = float(scale[0]) if bool((scale == scale[0]).all()) else 0.0
        weighted = _scaled(plain, scale) if known is None else known
        return Rows(plain, weighted, constant or None, rank).in_single(), found.unrecognised
    weighted = _jacobian(terms, params, (plain, found_roots))
    return Rows(plain, weighted, None, rank).in_single(), found.unrecognised


def rows_of_outputs(
    outputs: Tensor, params: Sequence[Tensor], max_passes: float = math.inf
) -> Rows:
    """The rows of outputs given apart from the loss; Q = I/M with M = len(outputs).

    Raises:
        KernelError: see `jacobian_of`.
    """
    plain = jacobian_of(outputs, params, max_passes)
    samples = len(outputs) if outputs.ndim else 1
    scale = 1 / math.sqrt(samples)
    weights = torch.full((plain.rows,), scale, dtype=torch.float64).to(outputs)
    return Rows(plain, _scaled(plain, weights), scale, plain.rows).in_single()


def _identity(term: Term) -> OutputHessianRoot:
    samples = term.like.shape[0] if term.like.ndim else 1
    ones = torch.ones_like(term.like).reshape(samples, -1)
    return OutputHessianRoot(ones, ones)


def _rank(root: OutputHessianRoot) -> int:
    if root.matrix.ndim == 2:
        return int((root.matrix > 0).sum())
    return round(float(torch.einsum("mcd,mdc->", root.matrix, root.inverse)))


def _scaled(jacobian: FactoredJacobian, scale: Tensor) -> FactoredJacobian:
    factors = [
        None if factor is None else replace(factor, left=factor.left * scale[:, None, None])
        for factor in jacobian.factors
    ]
    return FactoredJacobian(factors, jacobian.like, jacobian.rows)


def _mixed(J: Tensor, roots: Sequence[OutputHessianRoot]) -> Tensor:
    """Q^{1/2} J, block by block."""
    pieces = torch.split(J, [root.rows * root.columns for root in roots])
    return torch.cat(
        [
            _times(root, piece.reshape(root.rows, root.columns, -1)).flatten(0, 1)
            for piece, root in zip(pieces, roots, strict=True)
        ]
    )


def _times(root: OutputHessianRoot, rows: Tensor) -> Tensor:
    if root.shape is not None:
        columns = rows.flatten(0, 1).unbind(1)
        mixed = [root.apply(column.reshape(root.shape)).reshape(-1) for column in columns]
        return torch.stack(mixed, 1).reshape(rows.shape)
    if root.matrix.ndim == 2:
        return rows * root.matrix[:, :, None]
    return torch.einsum("mcd,mdp->mcp", root.matrix, rows)


def _weighted_densely(
    plain: FactoredJacobian, terms: Sequence[Term], params: Sequence[Tensor]
) -> tuple[FactoredJacobian, int]:
    """F^T J where samples interact in the loss, with Q = F F^T from all of Q."""
    size = sum(param.numel() for param in params)
    if plain.rows * max(plain.rows, size) > JACOBIAN_ENTRIES:
        raise KernelError(
            f"the {plain.rows} outputs interact in the loss, and their second derivative is too "
            "large to form: take fewer samples"
        )
    Q = Residuals(list(terms), []).hessian().dense().double()
    values, vectors = torch.linalg.eigh((Q + Q.T) / 2)
    epsilon = torch.finfo(plain.like[0].dtype).eps
    kept = values > len(values) * epsilon * values.max()
    factor = (vectors[:, kept] * values[kept].sqrt()).to(plain.like[0])
    return of_matrix(factor.T @ plain.dense(), params), int(kept.sum())
