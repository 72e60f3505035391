"""Kernels that can be differentiated twice, chosen where PyTorch would take faster ones.

The fused attention kernels and cuDNN's recurrent networks have a backward pass that autograd
cannot differentiate. Both have a slower twin that gives the same numbers and can.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


def _math_attention() -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
    return context


def _without_cudnn() -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=False)
    return context


TWINS: dict[Callable[..., Any], Callable[[], AbstractContextManager[Any]]] = {
    functional.scaled_dot_product_attention: _math_attention,
    functional.multi_head_attention_forward: _math_attention,
    torch.lstm: _without_cudnn,
    torch.gru: _without_cudnn,
    torch.rnn_tanh: _without_cudnn,
    torch.rnn_relu: _without_cudnn,
}
"""Functions, and the context in which they can be differentiated twice."""
