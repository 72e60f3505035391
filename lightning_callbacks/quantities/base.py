"""What a logged quantity is."""

from __future__ import annotations

import enum
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..outcomes import OutOfTimeError
from ..point import Point
from ..work import Unit, Work

EVALUATIONS = 2.0
"""What a quantity that was never computed is reckoned to take, in evaluations of the loss, unless
it takes a product. Of the default ones on a transformer, an autoencoder and a dense network of a
million parameters the longest took that: reading the terms of the loss off its graph, cold."""

Numbers = dict[str, float]
"""Logged numbers by their keys."""


class Need(enum.Enum):
    """What of a `Point` a quantity is computed from; each member's text says what that is."""

    GRADIENT = "the gradient"
    HESSIAN = "products with the exact Hessian H"
    SPECTRUM = "the extreme eigenvalues of H, and all of them where it is formed"
    EIGENVECTORS = "the eigenvectors of H, where it is formed"
    JACOBIAN = "the per-sample Jacobian of the loss's outputs"
    KERNEL = "the extreme eigenvalues of the tangent kernel, for which products may do"
    WEIGHTED_KERNEL = "the same of the tangent kernel weighted by the output Hessian"
    EVALUATION = "the loss at other parameters"
    STEP = "the last step of the optimizer, for which the parameters before it are kept"


@dataclass(frozen=True)
class Measured:
    """What a quantity is at one point.

    Attributes:
        numbers: by their keys, which are among those of `Quantity.documentation`.
        spectrum: eigenvalues, for histograms and figures, where all are known.
    """

    numbers: Numbers
    spectrum: Tensor | None = None


class Quantity(ABC):
    """Something that CurvatureMonitor logs: one number or several, computed at a `Point`.

    A quantity of your own is a subclass. Give an instance of it to
    ``CurvatureMonitor(quantities=("hessian", GradientNorm()))``, or put it in the table
    `QUANTITIES` under its name and then give the name, as a YAML file does:

    >>> class GradientNorm(Quantity):
    ...     name = "gradient"
    ...     needs = frozenset({Need.GRADIENT})
    ...     documentation = (("gradient/norm", "Euclidean norm of the gradient"),)
    ...
    ...     def compute(self, point):
    ...         return Measured({"gradient/norm": float(point.gradient.norm())})
    >>> GradientNorm().unknown()
    {'gradient/norm': nan}

    Attributes:
        name: under which users ask for it.
        needs: what of the point it is computed from. Where the gradient, or with `Need.SPECTRUM`
            or `Need.EIGENVECTORS` the Hessian, is not finite, `unknown` is logged in place of it;
            and where it needs the Hessian and autograd's is not symmetric.
            Where `Need.JACOBIAN` is wanted of a loss without recognised outputs, nothing is; nor
            where there is no time for what is needed. One without needs is computed at every
            point. Where it needs the loss elsewhere, or a last step, and there is none, `unknown`
            is logged.
        documentation: a key and its meaning for each number that is ever logged. A name in angle
            brackets stands for any number: ``"residual/<k>/largest"``.
        light: whether it costs no more than a few evaluations of the loss; then it comes before
            those that take what time they get.
    """

    name: str
    needs: frozenset[Need] = frozenset({Need.GRADIENT})
    documentation: tuple[tuple[str, str], ...]
    light: bool = False

    @abstractmethod
    def compute(self, point: Point) -> Measured:
        """Its numbers at a point that has what it `needs`."""

    def work(self, point: Point) -> Work[Measured]:
        """The same as `compute` where time is limited: in units, or as one unit where not given.

        A quantity that takes long yields a `Unit` before each thing that takes long, and may then
        be spread over several pauses of the training, between which the graph is replaced. What is
        needed of the point is known when this begins.
        """
        cost = f"computing {self.name}"
        # Where it is new, what it requires is seen when it is tried; or it takes a product.
        costs, hessian = point.allowance, Need.HESSIAN in self.needs
        yield Unit(
            cost,
            lambda: max(
                EVALUATIONS * costs.estimate("evaluation"), hessian * costs.estimate("product")
            ),
        )
        try:
            return self.compute(point)
        except OutOfTimeError as error:
            if math.isinf(error.needed):
                raise
            needed = error.needed
        yield Unit(f"{cost} in a later pause", needed)
        return self.compute(point)

    def unknown(self) -> Numbers:
        """The numbers under the same keys where nothing is known: NaN, unless overridden."""
        return {key: math.nan for key, _ in self.documentation if "<" not in key}

    def documents(self, key: str) -> bool:
        """Whether the documentation lists a key.

        >>> ResidualOfTerm = type("ResidualOfTerm", (Quantity,), {"compute": None})
        >>> ResidualOfTerm.documentation = (("residual/<k>/largest", "of term k"),)
        >>> ResidualOfTerm().documents("residual/12/largest")
        True
        """
        return any(
            re.fullmatch(re.sub(r"<\w+>", r"\\d+", known), key) is not None
            for known, _ in self.documentation
        )
