r"""Roots of the output Hessian for any number of outputs, and random slopes made with them.

Slopes :math:`s = B \varepsilon` with :math:`B B^T = Q` and independent signs :math:`\varepsilon`
have mean zero and :math:`E[s s^T] = Q`. One backward pass with them gives :math:`J^T s`, whose
second moment is the Gauss-Newton matrix :math:`J^T Q J`, where C passes would give it without
noise. For a cross-entropy it has the mean of what sampled labels give (Martens and Grosse 2015,
*Optimizing neural networks with Kronecker-factored approximate curvature*, section 5) and a
smaller variance: of a confident sample a label is nearly always the expected one, whose slope is
nearly zero, and rarely another, whose slope is large.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autodiff.nodes import saved, wrapped
from .loss_curvature import OutputHessianRoot, output_hessian_root
from .terms import Term

LOG_SOFTMAX = "LogSoftmaxBackward0"


class OutputRoot(ABC):
    """B of one term, and the same term at other points."""

    @abstractmethod
    def apply(self, signs: Tensor) -> Tensor:
        r""":math:`B \varepsilon`, both of z's shape."""

    @abstractmethod
    def value(self, term: Term) -> Tensor | None:
        """Of the term at some point what :math:`Q^{1/2} z` is there, but for a constant."""

    @abstractmethod
    def square(self, change: Tensor) -> float:
        r"""Of a difference of two values :math:`\Delta z^T Q\,\Delta z`."""


@dataclass(frozen=True)
class GeneralRoot(OutputRoot):
    """The symmetric root of a diagonal, or of small blocks.

    Attributes:
        term: at the point where Q is taken.
        root: of its Q.
    """

    term: Term
    root: OutputHessianRoot

    def apply(self, signs: Tensor) -> Tensor:
        return self.root.apply(signs)

    def value(self, term: Term) -> Tensor | None:
        slope = term.slope_with_weight_of(self.term)
        return None if slope is None else self.root.solve(slope)

    def square(self, change: Tensor) -> float:
        return float(change.square().sum())


@dataclass(frozen=True)
class SoftmaxRoot(OutputRoot):
    r""":math:`B = \sqrt{w}\,(I - p\,1^T)\,\mathrm{diag}(\sqrt p)`, for any number of classes.

    :math:`B B^T = w\,(\mathrm{diag}(p) - p\,p^T)` because p adds up to one.

    Attributes:
        p: probabilities, of z's shape.
        weight: w, of z's shape with 1 in place of the classes.
        dim: that of the classes.
    """

    p: Tensor
    weight: Tensor
    dim: int

    @classmethod
    def of(cls, term: Term) -> SoftmaxRoot:
        """That of a weighted log-softmax."""
        node = term.value.node
        dim = wrapped(saved(node, "dim"))
        weight = (-term.weight).sum(dim, keepdim=True).clamp_min(0.0)
        return cls(saved(node, "result").exp(), weight, dim)

    def apply(self, signs: Tensor) -> Tensor:
        drawn = self.p.sqrt() * signs
        root: Tensor = self.weight.sqrt() * (drawn - self.p * self._sum(drawn))
        return root

    def value(self, term: Term) -> Tensor | None:
        """The logarithms of the probabilities: z but for a constant, which Q takes to zero."""
        logarithms: Tensor = saved(term.value.node, "result")
        return logarithms

    def square(self, change: Tensor) -> float:
        centred = change - self._sum(self.p * change)
        return float((self.weight * self.p * centred.square()).sum())

    def _sum(self, x: Tensor) -> Tensor:
        return x.sum(self.dim, keepdim=True)


def output_root(term: Term) -> OutputRoot | None:
    """A root of a term's Q; None where its samples interact or Q is not positive."""
    if term.value.node.name() == LOG_SOFTMAX and not (term.others or term.hessian):
        return SoftmaxRoot.of(term)
    root = output_hessian_root(term)
    return None if root is None else GeneralRoot(term, root)


def output_roots(terms: Sequence[Term]) -> list[OutputRoot] | None:
    """Those of all terms; None where there are none, or some term has none."""
    found = [output_root(term) for term in terms]
    roots = [root for root in found if root is not None]
    return roots if roots and len(roots) == len(found) else None


def random_slopes(roots: Sequence[OutputRoot], terms: Sequence[Term], seed: int) -> list[Tensor]:
    """Of each term one draw of s, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    slopes = []
    for root, term in zip(roots, terms, strict=True):
        signs = 2 * torch.randint(2, term.like.shape, generator=generator) - 1
        slopes.append(root.apply(signs.to(term.like)))
    return slopes
