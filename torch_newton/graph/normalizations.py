"""Readers of the weight and the bias that follow a normalization: w x + b of the normalized x."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import saved
from .broadcasts import broadcast
from .use import Reader, Use
from .views import View


def _layer_norm(node: Node, argument: int, view: View) -> Use | None:
    if argument == 0 or view.transposed or view.shape is None:
        return None
    if argument == 2:
        return broadcast(node, view)
    x, mean, rstd = (saved(node, name) for name in ("input", "result1", "result2"))
    return broadcast(node, view, (x - mean) * rstd)


def _group_norm(node: Node, argument: int, view: View) -> Use | None:
    x, mean, rstd = (saved(node, name) for name in ("input", "result1", "result2"))
    if argument == 0 or view.shape is None:
        return None
    groups = x.reshape(*mean.shape, -1)
    normalized = (groups - mean[:, :, None]) * rstd[:, :, None]
    return _channels(node, view, None if argument == 2 else normalized.reshape(x.shape))


def _batch_norm(node: Node, argument: int, view: View) -> Use | None:
    """Also of evaluation mode, and instance norm, which is batch norm of one sample."""
    x, mean, rstd = (saved(node, name) for name in ("input", "result1", "result2"))
    if argument == 0 or view.shape is None:
        return None
    if not saved(node, "training"):
        mean, rstd = saved(node, "running_mean"), saved(node, "running_var")
        rstd = (rstd + saved(node, "eps")).rsqrt()
    shape = (1, -1, *(1,) * (x.ndim - 2))
    normalized = (x - mean.reshape(shape)) * rstd.reshape(shape)
    return _channels(node, view, None if argument == 2 else normalized)


def _channels(node: Node, view: View, factor: Tensor | None) -> Use:
    """A number for each channel, which is added or multiplied by `factor`."""

    def rows(cotangent: Tensor) -> Tensor:
        if factor is not None:
            cotangent = cotangent * factor
        return cotangent.flatten(2).sum(2) if cotangent.ndim > 2 else cotangent

    return Use(view.param, GradientEdge(node, 0), rows, None)


NORMALIZATIONS: dict[str, Reader] = {
    "NativeBatchNormBackward0": _batch_norm,
    "NativeGroupNormBackward0": _group_norm,
    "NativeLayerNormBackward0": _layer_norm,
}
"""Operations that normalize, then scale and shift."""
