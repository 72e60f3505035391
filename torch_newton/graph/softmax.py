r"""The second derivative of a cross-entropy without cancellation.

With probabilities p of a sample and w the sum of the weights of its log-probabilities,

.. math:: Q = -w\,(\mathrm{diag}(p) - p\,p^T).

Where the network is confident :math:`p_i (1 - p_i)` is the difference of two numbers that are equal
in single precision. As minus the sum of the other entries of its row it keeps all digits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..autodiff.nodes import saved
from .output_hessian import MAX_OUTPUTS, OutputHessian, by_sample, sample_shape


def softmax_hessian(node: Node, weight: Tensor) -> OutputHessian | None:
    """Q of weighted log-softmaxes, in blocks as `measure` finds them; None for many classes."""
    logarithms, dim = saved(node, "result"), saved(node, "dim")
    dim = (dim - 2**64 if dim >= 2**63 else dim) % max(logarithms.ndim, 1)
    classes, outputs = logarithms.shape[dim], sample_shape(logarithms)[1]
    if classes > MAX_OUTPUTS:
        return None
    p = logarithms.exp().movedim(dim, -1).reshape(-1, classes)
    w = weight.sum(dim).reshape(-1, 1, 1)
    Q = w * p[:, :, None] * p[:, None, :]
    torch.diagonal(Q, dim1=1, dim2=2).zero_()
    torch.diagonal(Q, dim1=1, dim2=2).copy_(-Q.sum(2))
    if logarithms.ndim == 1 or (logarithms.ndim == 2 and dim == 1):
        return OutputHessian(Q)
    found = OutputHessian(Q, dim)
    if dim == 0 or outputs > MAX_OUTPUTS:
        return found
    return by_sample(found.matvec, logarithms)
