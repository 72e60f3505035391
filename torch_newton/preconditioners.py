"""Approximate inverses of H + lambda I.

A preconditioner is a callable ``prepare(loss, params)`` that is called once a step, with the
loss and its graph, and returns a callable ``at(damping) -> LinearOperator``, which is called for
each value of lambda that the step tries; or None, where it has nothing to offer for this loss.
What it returns must be symmetric positive definite, P x P. To add one, write it here or anywhere
else, and give it a name in `PRECONDITIONERS` if it shall have one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .operators import LinearOperator

AtDamping = Callable[[float], LinearOperator]
Preconditioner = Callable[[Tensor, Sequence[Tensor]], AtDamping | None]
