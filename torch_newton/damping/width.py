"""The width of a network, from the shapes of its parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def width(params: Sequence[Tensor]) -> int:
    """The width n of a network, from the shapes of its parameters.

    The largest fan-in, numel / shape[0], over the parameters of two or more dimensions. A network
    written with bare tensors has its output weights as a vector: where there is one matrix alone
    and a vector as long as the matrix has rows, that length counts too.

    >>> import torch
    >>> width(list(torch.nn.Linear(1, 1000).parameters()))
    1000
    >>> width(list(torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3)).parameters()))
    72
    """
    shapes = [tuple(param.shape) for param in params]
    matrices = [shape for shape in shapes if len(shape) >= 2 and shape[0] > 0]
    n = max([1, *(math.prod(shape[1:]) for shape in matrices)])
    if len(matrices) == 1 and (matrices[0][0],) in shapes:
        n = max(n, matrices[0][0])
    return n
