"""What a preconditioner is: an approximate inverse of H + lambda I.

It is a callable ``prepare(loss, params)`` that is called once a step, with the
loss and its graph, and returns a callable ``at(damping) -> LinearOperator``, which is called for
each value of lambda that the step tries; or None, where it has nothing to offer for this loss.
What it returns must be symmetric positive definite, P x P. For instance, Jacobi's, with the
diagonal of the Hessian by as many products as there are parameters:

>>> import torch
>>> from torch_newton import RegNewton, from_dense, hessian
>>> def jacobi(loss, params):
...     diagonal = hessian(loss, params).dense().diagonal().abs()
...     return lambda damping: from_dense(torch.diag(1 / (diagonal + damping)))
>>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
>>> optimizer = RegNewton([x], damping=0.0, preconditioner=jacobi)
>>> _ = optimizer.step(lambda: 500 * (x[0] - 3) ** 2 + (x[1] - 4) ** 2)
>>> x.tolist(), optimizer.last_step.cg_iterations
([3.0, 4.0], 1)

One in the table `torch_newton.preconditioners.PRECONDITIONERS` can be given by its name.
``"auto"`` is the function space of the loss where its factor is worth what it costs (`cost`), and
elsewhere iterations with a factor of low rank (`low_rank`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from ..linalg.operators import LinearOperator

AtDamping = Callable[[float], LinearOperator]


class Preconditioner(ABC):
    """A preconditioner, made anew for each step. It should hold no state from step to step."""

    @abstractmethod
    def __call__(self, loss: Tensor, params: Sequence[Tensor]) -> AtDamping | None:
        """Prepare the approximate inverses for one step.

        Args:
            loss: a scalar with its graph.
            params: the P parameters.

        Returns:
            From lambda to an approximation of (H + lambda I)^{-1}, P x P, symmetric positive
            definite; None where there is nothing to offer for this loss.
        """


AnyPreconditioner = Preconditioner | Callable[[Tensor, Sequence[Tensor]], AtDamping | None]
"""A preconditioner, or a plain function that serves as one."""
