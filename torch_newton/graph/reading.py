"""What is asked of a graph, and what has been read of it: the per-sample Jacobian and how."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..autodiff.products import jacobian_at
from ..linalg.factored_jacobian import FactoredJacobian
from ..linalg.flat import flatten, unflatten
from .assembly import Part, stack
from .loss_curvature import OutputHessianRoot
from .readers import Uses, find_uses
from .terms import Term

MAX_ROWWISE = 256
"""Rows up to which a Jacobian is taken a row at a time, each by a backward pass of all samples.
Measured on one core, in closure evaluations by time: with batch norm a step takes 135 for 256 rows
and 65 to 470 if the layers before it are left out; for 512 rows 300 and 35 to 150, and 25 steps
reach the same loss. A graph network takes 45 for 256 rows, where its step by conjugate gradients
takes 110."""


class Rung(enum.Enum):
    """How the columns of a parameter were read; each member's text says what it takes.

    The members are in the order in which they are tried.
    """

    BLOCKS = "off the graph, by one backward pass for each output of a sample"
    SEARCHED = "off the graph, the sample of each row found by two further backward passes"
    ACROSS = "off the graph, with samples along the other dimensions of z than the first"
    COMPOSED = "off the graph, by way of a tensor that is computed from parameters alone"
    COLUMNS = "a column at a time, each the derivative of one entry of J^T u in u"
    ROWS = "a row at a time, by one batched backward pass"
    NONE = "not at all: the Jacobian leaves the parameter out"


@dataclass(frozen=True)
class Request:
    r"""Which Jacobian is wanted: :math:`\hat J = Q^{1/2} J`, R x P.

    Attributes:
        terms: of a loss, R entries of z in all.
        params: the P parameters.
        roots: the square root of each term's Q.
        known: u and :math:`\hat J^T u`, where autograd has already computed that for a u that
            may say something about every row; it can spare the backward pass of the check.
        max_rowwise: rows up to which `Rung.ROWS` is tried.
    """

    terms: Sequence[Term]
    params: Sequence[Tensor]
    roots: Sequence[OutputHessianRoot]
    known: tuple[Tensor, Tensor] | None = None
    max_rowwise: int = MAX_ROWWISE

    @cached_property
    def sizes(self) -> list[int]:
        """The number of rows of each term."""
        return [term.like.numel() for term in self.terms]

    @cached_property
    def uses(self) -> Uses:
        """Where the parameters enter the graph."""
        return find_uses([term.z.node for term in self.terms], self.params)

    def weights(self, u: Tensor) -> list[Tensor]:
        r""":math:`Q^{1/2} u`, shaped as the terms' z, for R entries u."""
        pieces = unflatten(u, [term.like for term in self.terms])
        return [root.apply(piece) for root, piece in zip(self.roots, pieces, strict=True)]

    @cached_property
    def combination(self) -> tuple[Tensor, Tensor]:
        r"""A random u and :math:`\hat J^T u` by one backward pass."""
        generator = torch.Generator().manual_seed(0)
        like = [term.like for term in self.terms]
        u = torch.randn(sum(self.sizes), generator=generator, dtype=torch.float64).to(like[0])
        J = jacobian_at([term.z for term in self.terms], like, self.params)
        return u, J.T @ flatten(self.weights(u))


@dataclass(frozen=True)
class Found:
    """What one strategy has read.

    Attributes:
        request: what was asked.
        parts: for each term the columns of the parameters, none where the term does not depend
            on them.
        read: the parameters whose columns these are.
        obstacles: of the others, what was in the way, where that is known.
    """

    request: Request
    parts: list[Part] = field(default_factory=list)
    read: frozenset[int] = frozenset()
    obstacles: dict[int, str] = field(default_factory=dict)

    @cached_property
    def jacobian(self) -> FactoredJacobian:
        """R x P, with zero columns for parameters that were not read."""
        return stack(self.parts, self.request.params, self.request.sizes)

    def only(self, chosen: Collection[int], obstacles: dict[int, str]) -> Found:
        """Without the parameters that are not among the chosen, for which obstacles are given."""
        read = self.read & frozenset(chosen)
        if read == self.read:
            return self
        parts = [{i: factor for i, factor in part.items() if i in read} for part in self.parts]
        return replace(self, parts=parts, read=read, obstacles=self.obstacles | obstacles)

    def beside(self, other: Found) -> Found:
        """The columns of both, which are of different parameters."""
        if not self.read and not self.obstacles:
            return other  # with its Jacobian, which checking it has put together
        if not self.read or not other.read:
            read = self if self.read else other
            return replace(read, obstacles=self.obstacles | other.obstacles)
        parts = [one | two for one, two in zip(self.parts, other.parts, strict=True)]
        obstacles = self.obstacles | other.obstacles
        return Found(self.request, parts, self.read | other.read, obstacles)


Strategy = Callable[[Request, Collection[int]], Found]
"""(what is asked, the parameters not read so far) -> what it can read of these."""


@dataclass(frozen=True)
class Reading:
    """A per-sample Jacobian, and how it was read.

    Attributes:
        jacobian: R x P, with zero columns for the parameters that are left out; None where no
            parameter could be read.
        rungs: for each parameter, how its columns were read.
        obstacles: for parameters that were not read off the graph, by their numbers, what was in
            the way: the name of the operation (autograd's node), and what it does.
        failure: the error that reading met, where it met one.
    """

    jacobian: FactoredJacobian | None
    rungs: tuple[Rung, ...]
    obstacles: dict[int, str]
    failure: str | None = None

    @property
    def rung(self) -> Rung:
        """The first rung on which any parameter was read."""
        return next((rung for rung in Rung if rung in self.rungs), Rung.NONE)

    @property
    def left_out(self) -> tuple[int, ...]:
        """The numbers of the parameters whose columns are not in the Jacobian."""
        return tuple(i for i, rung in enumerate(self.rungs) if rung is Rung.NONE)

    def unread(self, params: Sequence[Tensor]) -> tuple[str, ...]:
        """What is left out and what was in the way, a phrase for each such parameter."""
        return tuple(
            f"number {i} of shape {tuple(params[i].shape)} ({self.obstacles.get(i, 'unknown')})"
            for i in self.left_out
        )

    def complaint(self, params: Sequence[Tensor]) -> str | None:
        """What the user should be warned of, if anything."""
        if self.failure is not None:
            return f"reading the per-sample Jacobian off the loss's graph failed ({self.failure})"
        if self.jacobian is None or not self.left_out:
            return None
        return (
            "the per-sample Jacobian, and with it function space, leaves out parameters that "
            f"cannot be read off the loss's graph: {'; '.join(self.unread(params))}"
        )
