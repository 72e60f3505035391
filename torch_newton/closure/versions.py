"""Version counters of parameters, by which autograd sees that a tensor was changed in place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor
from torch.autograd import grad_mode


def versions_kept(params: Sequence[Tensor]) -> AbstractContextManager[object]:
    """A block in which changes of `params` are hidden from autograd.

    It is for changes that are undone: a graph made before the block is then still right.
    """
    return grad_mode._unsafe_preserve_version_counter(tuple(params))
