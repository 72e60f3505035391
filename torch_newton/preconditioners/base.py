"""Approximate inverses of H + lambda I.

A preconditioner is a callable ``prepare(loss, params)`` that is called once a step, with the
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

`RegNewton` knows one by name: ``"auto"``, which is `function_space` up to `MAX_SIZE` rows or
parameters, and above that its damped inverse for a sample of the rows, `SampledRows`. `Nystrom`
needs no more of the graph than products, and is there for losses whose graph cannot be read.

One that remembers something from step to step has ``state_dict()``, of numbers and tensors, and
``load_state_dict(state)``; the optimizer then keeps it in its own state, and a resumed run goes on
as if it had not stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..linalg.operators import LinearOperator

AtDamping = Callable[[float], LinearOperator]
Preconditioner = Callable[[Tensor, Sequence[Tensor]], AtDamping | None]


@runtime_checkable
class StatefulPreconditioner(Protocol):
    """A preconditioner that remembers something from step to step."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
