"""Version counters of parameters, by which autograd sees that a tensor was changed in place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from inspect import signature

from torch import Tensor
from torch.autograd import grad_mode

ONE_BY_ONE = "tensor" in signature(grad_mode._unsafe_preserve_version_counter).parameters
"""Whether PyTorch keeps the counter of one tensor at a time, as 2.6 does; later versions keep those
of several in one call."""


def versions_kept(params: Sequence[Tensor]) -> AbstractContextManager[object]:
    """A block in which changes of `params` are hidden from autograd.

    It is for changes that are undone: a graph made before the block is then still right.
    """
    if not ONE_BY_ONE:
        return grad_mode._unsafe_preserve_version_counter(tuple(params))
    stack = ExitStack()
    for param in params:
        stack.enter_context(grad_mode._unsafe_preserve_version_counter(param))
    return stack
