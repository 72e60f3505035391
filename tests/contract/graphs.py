"""An expression for every node of autograd's graph that the package knows by its name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


def tensor(*shape: int) -> Tensor:
    """A leaf that requires a gradient."""
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape).requires_grad_()


def constant(*shape: int) -> Tensor:
    return tensor(*shape).detach()


def labels(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


NODES: dict[str, Callable[[], Tensor]] = {
    "AbsBackward0": lambda: tensor(3).abs(),
    "AddBackward0": lambda: constant(3, 4) + tensor(4),
    "AddBackward1": lambda: aten.add.Scalar(tensor(3), 1.0),
    "AddmmBackward0": lambda: F.linear(constant(2, 4), tensor(3, 4), tensor(3)),
    "AliasBackward0": lambda: tensor(3).as_subclass(Tensor),
    "BaddbmmBackward0": lambda: torch.baddbmm(tensor(1), constant(2, 3, 4), tensor(2, 4, 5)),
    "BinaryCrossEntropyWithLogitsBackward0": lambda: F.binary_cross_entropy_with_logits(
        tensor(3), constant(3)
    ),
    "BmmBackward0": lambda: torch.bmm(constant(2, 3, 4), tensor(2, 4, 5)),
    "CatBackward0": lambda: torch.cat([tensor(3), tensor(3)]),
    "ClampBackward1": lambda: tensor(3).clamp(1, 2),
    "CloneBackward0": lambda: tensor(3).clone(),
    "ConvolutionBackward0": lambda: F.conv2d(constant(2, 3, 7, 7), tensor(4, 3, 2, 2), tensor(4)),
    "DistBackward0": lambda: torch.dist(tensor(3), constant(3)),
    "DivBackward0": lambda: tensor(3) / 2,
    "DivBackward1": lambda: aten.div.Scalar(tensor(3), 2.0),
    "DotBackward0": lambda: torch.dot(tensor(3), constant(3)),
    "EmbeddingBackward0": lambda: F.embedding(labels(2), tensor(3, 4)),
    "EmbeddingBagBackward0": lambda: F.embedding_bag(labels(2, 2), tensor(3, 4), mode="sum"),
    "ExpandBackward0": lambda: tensor(3).expand(2, 3),
    "GatherBackward0": lambda: tensor(3, 4).gather(0, labels(2, 4)),
    "ExpBackward0": lambda: tensor(3).exp(),
    "HuberLossBackward0": lambda: F.huber_loss(tensor(3), constant(3)),
    "IndexBackward0": lambda: tensor(3)[labels(2)],
    "IndexSelectBackward0": lambda: tensor(3).index_select(0, labels(2)),
    "LinalgVectorNormBackward0": lambda: tensor(3).norm(),
    "Log10Backward0": lambda: tensor(3).log10(),
    "Log1PBackward0": lambda: tensor(3).log1p(),
    "Log2Backward0": lambda: tensor(3).log2(),
    "LogBackward0": lambda: tensor(3).log(),
    "LogSoftmaxBackward0": lambda: tensor(2, 3).log_softmax(1),
    "MaskedFillBackward0": lambda: tensor(3).masked_fill(constant(3) > 1, 0.0),
    "MaskedSelectBackward0": lambda: tensor(3).masked_select(constant(3) > 1),
    "MeanBackward0": lambda: tensor(3).mean(),
    "MeanBackward1": lambda: tensor(2, 3).mean(0),
    "MmBackward0": lambda: constant(2, 3) @ tensor(3, 4),
    "MseLossBackward0": lambda: F.mse_loss(tensor(3), constant(3)),
    "MulBackward0": lambda: constant(2, 3) * tensor(3),
    "MulBackward1": lambda: aten.mul.Scalar(tensor(3), 2.0),
    "MvBackward0": lambda: constant(2, 3) @ tensor(3),
    "NativeBatchNormBackward0": lambda: F.batch_norm(
        constant(2, 3), constant(3), constant(3), tensor(3), tensor(3)
    ),
    "NativeGroupNormBackward0": lambda: F.group_norm(constant(2, 4), 2, tensor(4), tensor(4)),
    "NansumBackward0": lambda: tensor(3).nansum(),
    "NativeLayerNormBackward0": lambda: F.layer_norm(constant(2, 3), (3,), tensor(3), tensor(3)),
    "NegBackward0": lambda: -tensor(3),
    "NllLoss2DBackward0": lambda: F.nll_loss(tensor(2, 3, 4, 4), labels(2, 4, 4)),
    "NllLossBackward0": lambda: F.nll_loss(tensor(2, 3), labels(2)),
    "NormBackward0": lambda: aten.norm.Scalar(tensor(3), 2),
    "NormBackward1": lambda: F.pairwise_distance(tensor(2, 3), constant(2, 3)),
    "PermuteBackward0": lambda: tensor(2, 3).permute(1, 0),
    "PowBackward0": lambda: tensor(3) ** 2,
    "PreluKernelBackward0": lambda: F.prelu(constant(2, 3), tensor(3)),
    "RepeatBackward0": lambda: tensor(3).repeat(2),
    "PowBackward1": lambda: tensor(3) ** constant(3),
    "ReciprocalBackward0": lambda: tensor(3).reciprocal(),
    "ReshapeAliasBackward0": lambda: aten._reshape_alias(tensor(2, 3), [6], [1]),
    "RsqrtBackward0": lambda: tensor(3).rsqrt(),
    "RsubBackward0": lambda: torch.rsub(tensor(3), constant(3)),
    "RsubBackward1": lambda: 1 - tensor(3),
    "SelectBackward0": lambda: tensor(3)[0],
    "SigmoidBackward0": lambda: tensor(3).sigmoid(),
    "SliceBackward0": lambda: tensor(3)[1:],
    "SmoothL1LossBackward0": lambda: F.smooth_l1_loss(tensor(3), constant(3)),
    "SoftplusBackward0": lambda: F.softplus(tensor(3)),
    "SplitBackward0": lambda: tensor(4).split(2)[0],
    "SqrtBackward0": lambda: tensor(3).sqrt(),
    "SqueezeBackward0": lambda: tensor(3, 1).squeeze(),
    "SqueezeBackward1": lambda: tensor(3, 1).squeeze(1),
    "SqueezeBackward2": lambda: tensor(3, 1).squeeze((1,)),
    "StackBackward0": lambda: torch.stack([tensor(3), tensor(3)]),
    "StdBackward0": lambda: tensor(3).std(),
    "SubBackward0": lambda: constant(2, 3) - tensor(3),
    "SubBackward1": lambda: aten.sub.Scalar(tensor(3), 1.0),
    "SumBackward0": lambda: tensor(3).sum(),
    "SumBackward1": lambda: tensor(2, 3).sum(0),
    "TBackward0": lambda: tensor(2, 3).t(),
    "ToCopyBackward0": lambda: tensor(3).to(torch.float16),
    "TransposeBackward0": lambda: tensor(2, 3).mT,
    "TrilinearBackward0": lambda: torch._trilinear(
        constant(2, 3), tensor(5, 3, 4), constant(2, 4), [1, 3], [0], [1, 2], [2, 3]
    ),
    "UnbindBackward0": lambda: tensor(2, 3).unbind()[0],
    "UnsafeViewBackward0": lambda: tensor(2, 3).t().reshape(6),
    "UnsqueezeBackward0": lambda: tensor(3).unsqueeze(0),
    "VarBackward0": lambda: tensor(3).var(),
    "ViewBackward0": lambda: tensor(2, 3).view(6),
    "WhereBackward0": lambda: torch.where(constant(3) > 1, tensor(3), 0.0),
}
"""By the name of the node that the expression ends in."""

ONLY_BY_ATEN = {
    "AddBackward1", "DivBackward1", "MulBackward1", "NormBackward0", "ReshapeAliasBackward0",
    "SubBackward1",
}  # fmt: skip
"""Nodes that nothing in PyTorch 2.13's Python interface makes: ``x + 1`` makes AddBackward0.

They come from C++ extensions and from passes over traced graphs, and are made here by calling
the operator itself.
"""

WRITTEN: dict[str, tuple[Callable[[], Tensor], list[str]]] = {
    "nn.Linear": (
        lambda: torch.nn.Linear(4, 3)(constant(2, 4)),
        ["AddmmBackward0", "TBackward0"],
    ),
    "nn.Linear without a bias": (
        lambda: torch.nn.Linear(4, 3, bias=False)(constant(2, 4)),
        ["MmBackward0", "TBackward0"],
    ),
    "nn.Linear on positions": (
        lambda: torch.nn.Linear(4, 3)(constant(2, 5, 4)),
        ["ViewBackward0", "AddmmBackward0", "TBackward0"],
    ),
    "a batch times a matrix": (
        lambda: constant(2, 3, 4) @ tensor(4, 5),
        ["UnsafeViewBackward0", "MmBackward0"],
    ),
    "a batch times a batch": (
        lambda: constant(2, 3, 4) @ tensor(2, 4, 5),
        ["UnsafeViewBackward0", "BmmBackward0", "ViewBackward0", "ExpandBackward0"],
    ),
    "nn.Conv1d": (lambda: torch.nn.Conv1d(3, 4, 2)(constant(2, 3, 7)), ["ConvolutionBackward0"]),
    "nn.Embedding": (lambda: torch.nn.Embedding(3, 4)(labels(2)), ["EmbeddingBackward0"]),
    "nn.LayerNorm": (lambda: torch.nn.LayerNorm(3)(constant(2, 3)), ["NativeLayerNormBackward0"]),
    "cross-entropy": (
        lambda: F.cross_entropy(tensor(2, 3), labels(2)),
        ["NllLossBackward0", "LogSoftmaxBackward0"],
    ),
    "a square": (lambda: tensor(3).square().mean(), ["MeanBackward0", "PowBackward0"]),
    "the square of a norm": (
        lambda: tensor(3).norm() ** 2,
        ["PowBackward0", "LinalgVectorNormBackward0"],
    ),
    "the square of linalg.norm": (
        lambda: torch.linalg.norm(tensor(3)) ** 2,
        ["PowBackward0", "LinalgVectorNormBackward0"],
    ),
    "a reshape that copies nothing": (lambda: tensor(2, 3).reshape(6), ["ViewBackward0"]),
    ".T": (lambda: tensor(2, 3).T, ["PermuteBackward0"]),
}
"""What users write, and the nodes that it becomes, from the result backwards."""
