"""What a case of the suite is: a problem that can be made again, and what is expected of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers import closure_of
from torch_newton import RegNewton

SEED = 0
"""Of the weights of a case and of random numbers drawn in its loss."""

SPACE, PLAIN = "FUNCTION_SPACE", "PLAIN"
"""Names of the two paths that a default step takes on problems as small as these."""

CHECKS = ("direction", "descent", "moves", "size", "evaluation", "path")
"""What is checked of each case, in this order; `checks` says how."""

Criterion = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """Parameters and the loss that is computed from them.

    Attributes:
        params: what is trained.
        loss: the training loss, of no arguments, with its graph.
        module: whose buffers and mode belong to the problem, where there is one.
        outputs: z, and
        criterion: the loss as a convex function of z, where the Gauss-Newton matrix is the one
            that follows from this z.
        closure: makes the closure from the optimizer, where it is not the usual one.
    """

    params: list[Tensor]
    loss: Callable[[], Tensor]
    module: nn.Module | None = None
    outputs: Callable[[], Tensor] | None = None
    criterion: Criterion | None = None
    closure: Callable[[torch.optim.Optimizer], Callable[[], Any]] | None = None
    buffers: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        found = [] if self.module is None else [b.clone() for b in self.module.buffers()]
        object.__setattr__(self, "buffers", found)

    def rewind(self) -> None:
        """Buffers and random state as they were when the problem was made."""
        torch.manual_seed(SEED)
        if self.module is not None:
            for buffer, start in zip(self.module.buffers(), self.buffers, strict=True):
                buffer.copy_(start)

    def value(self) -> Tensor:
        """The loss as at the first evaluation, whatever was drawn or counted since."""
        self.rewind()
        return self.loss()

    def closure_for(self, optimizer: RegNewton) -> Callable[[], Any]:
        if self.closure is not None:
            return self.closure(optimizer)
        return closure_of(optimizer, self.loss)


@dataclass(frozen=True)
class Case:
    """A problem and what is expected of it.

    Attributes:
        name: for the table.
        make: makes the problem; called in double precision, after a call of ``manual_seed``.
        path: of the default steps, the name of a `torch_newton.step.Path`; None where it may be
            any.
        tol: relative error of a fixed-damping direction.
        damping: lambda of these directions; more where the matrix is nearly singular there.
        differences: why the reference is formed by differences of gradients, where it is.
        unprobed: why the reference cannot be compared with such differences, where it cannot.
        undirected: why there is no reference at all, where that is so.
        refused: what the error says by which the optimizer refuses the loss, where it does.
        grows: why a parameter may exceed a thousand times its first size, where it may.
        rests: why the loss need not fall, or a parameter need not move, where that is so.
        steps: default steps.
        quick: whether the case also belongs to the default run.
    """

    name: str
    make: Callable[[], Problem]
    path: str | None = SPACE
    tol: float = 1e-6
    damping: float = 0.1
    differences: str = ""
    unprobed: str = ""
    undirected: str = ""
    refused: str = ""
    grows: str = ""
    rests: str = ""
    steps: int = 15
    quick: bool = False

    def build(self) -> Problem:
        torch.manual_seed(SEED)
        problem = self.make()
        problem.rewind()
        return problem
