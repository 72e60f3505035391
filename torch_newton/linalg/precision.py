r"""The precision in which a system is solved whose rows come in another.

A Gram matrix of J has the square of J's condition, so that in J's own precision, of unit
:math:`\varepsilon`, it says nothing of singular values below :math:`\sqrt\varepsilon` of the
largest: 3e-4 of it in single precision. Formed and factored in double precision from the same
single-precision rows, it is exact for them to :math:`10^{-16}`, and what remains is the rounding of
J, :math:`\varepsilon` of the largest singular value. A right-hand side :math:`J^T t` is summed in
double precision likewise, since what rounding leaves outside the range of :math:`J^T` would be
divided by the damping (Björck 1996, *Numerical Methods for Least Squares Problems*, section 2.2).
"""

from __future__ import annotations

import torch

FAST_DOUBLE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
"""Compute capabilities of the NVIDIA cards that multiply in double precision at half the rate of
single or more: P100, V100, A100, H100 and H200, B200. All others do at 1/32 or 1/64 of it."""


def solving_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision of systems whose rows have the given one: double, where the device has that.

    Where double precision is slow, as on graphics cards for consumers, or missing, as on Apple's
    (``mps``), it is that of the rows themselves.

    >>> solving_dtype(torch.float32, torch.device("cpu"))
    torch.float64
    """
    if dtype is not torch.float32 or not _has_fast_double(device):
        return dtype
    return torch.float64


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Single precision in place of a narrower one, in which PyTorch decomposes no matrices.

    >>> at_least_single(torch.bfloat16), at_least_single(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _has_fast_double(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) in FAST_DOUBLE
    return device.type == "cpu"
