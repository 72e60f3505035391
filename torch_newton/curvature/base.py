"""What a curvature is: the matrix A that a step solves (A + lambda I) d = -g with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ..linalg.operators import LinearOperator
from ..preconditioners.function_space import FunctionSpace
from ..preconditioners.low_rank import LowRankSpace
from .linearization import Linearization


class Curvature(ABC):
    """A symmetric P x P matrix that stands for the second derivative of the loss.

    Deriving from this class makes one, ``RegNewton(..., curvature=Mine())`` uses it, and a line
    in `torch_newton.curvature.CURVATURES` gives it a name. It holds no state of its own.

    A curvature that is a matrix J^T J of some rows, one for each sample or output, has a
    `FunctionSpace`, in which the damped system is solved directly. Any other has products
    alone, and is solved by conjugate gradients, started and preconditioned in the function space
    of the loss where that could be read.

    Attributes:
        name: for `last_step`, checkpoints and the table.
        exact: whether A is the second derivative of the loss itself. Its products then
            differentiate the gradient once more, or take differences of gradients where that
            cannot be done; and the ratio of actual to predicted reduction tends to one as steps
            become short, which the default damping relies on.
        averaged: whether A is a running mean over steps. A step is then that of
            `newton.stochastic`, which moves along its damped inverse and solves nothing else.
        expected_cost: evaluations of the closure that a first step is reckoned to take, before
            one has been measured.
        max_products: products that a solve may take under an adaptive damping, where the solve
            starts at a Gauss-Newton step and where it does not.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    averaged: ClassVar[bool] = False
    expected_cost: ClassVar[float] = 5.0
    max_products: ClassVar[tuple[int, int]] = (50, 50)

    @abstractmethod
    def available(self, at: Linearization) -> bool:
        """Whether A can be had of this loss, as far as its graph could be read."""

    @abstractmethod
    def operator(self, at: Linearization) -> LinearOperator:
        """A, by its products with vectors."""

    def space(self, at: Linearization) -> FunctionSpace | None:
        """The function space in which a solve starts, and by which it is preconditioned."""
        return at.space

    def closed(self, at: Linearization) -> bool:
        """Whether A is J^T J of that space, so that its damped inverse solves the system."""
        return False

    def iterative(self, at: Linearization) -> LowRankSpace | None:
        """The rows whose J^T J is A, where there are too many for a factor of their own."""
        return None

    def product_cost(self, at: Linearization) -> float:
        """Evaluations of the closure that a product with A costs: 2 for a second backward pass.

        Products with a Jacobian in memory are not counted.
        """
        return 0.0 if self.closed(at) else 2.0

    def missing(self, at: Linearization) -> str:
        """What a user should know whose loss has no such curvature, as a sentence."""
        return f"curvature={self.name!r} cannot be computed for this loss"
