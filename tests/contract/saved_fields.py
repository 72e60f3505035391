"""What the package reads of what a node has saved, and the value that it takes it to have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.contract.graphs import aten, constant, labels, tensor

WRAPPED = 2**64
"""Negative dimensions are saved as unsigned numbers of 64 bits."""


@dataclass(frozen=True)
class Field:
    """One saved value.

    Attributes:
        node: name of the node.
        name: of the field, without ``_saved_``.
        make: an expression that ends in the node.
        value: what must be saved.
        breaks: what this package gets wrong, or can no longer do, where it is not.
    """

    node: str
    name: str
    make: Callable[[], Tensor]
    value: Any
    breaks: str


A, B, BATCH = constant(2, 3), constant(3, 4), constant(5, 2, 3)
IMAGES, WAVES = constant(2, 4, 6, 7), constant(2, 3, 7)
CENTRED = A - A.mean(1, keepdim=True)


def _conv2d() -> Tensor:
    return F.conv2d(IMAGES, tensor(6, 2, 2, 2), None, (2, 3), (1, 2), (1, 2), 2)


def _conv1d() -> Tensor:
    return F.conv1d(WAVES, tensor(4, 3, 2), None, 2, 1, 3)


def _transposed() -> Tensor:
    return F.conv_transpose1d(WAVES, tensor(3, 4, 2))


def _layer_norm() -> Tensor:
    return F.layer_norm(A, (3,), tensor(3), tensor(3))


def _embedding(padding: int | None = None) -> Callable[[], Tensor]:
    return lambda: F.embedding(labels(2), tensor(3, 4), padding)


def _mse(reduction: str = "mean") -> Callable[[], Tensor]:
    return lambda: F.mse_loss(tensor(3), constant(3) + 1, reduction=reduction)


def _bce() -> Tensor:
    return F.binary_cross_entropy_with_logits(
        tensor(3), constant(3), constant(3) + 1, pos_weight=constant(3) + 2
    )


BAGS, GROUPS = torch.tensor([[1, 2], [3, 1]]), constant(2, 4)
LEFT, RIGHT = constant(2, 3), constant(2, 4)


def _bag() -> Tensor:
    return F.embedding_bag(BAGS, tensor(5, 4), mode="sum")


def _selected() -> Tensor:
    return tensor(5, 4).index_select(-2, BAGS[0])


def _gathered() -> Tensor:
    return tensor(5, 4).gather(0, BAGS)


def _trilinear() -> Tensor:
    return torch._trilinear(LEFT, tensor(5, 3, 4), RIGHT, [1, 3], [0], [1, 2], [2, 3])


def _group_norm() -> Tensor:
    return F.group_norm(GROUPS, 2, tensor(4), tensor(4))


def _batch_norm(training: bool) -> Callable[[], Tensor]:
    mean, var = constant(3), constant(3) + 1
    return lambda: F.batch_norm(A, mean.clone(), var.clone(), tensor(3), tensor(3), training)


def _dist() -> Tensor:
    return torch.dist(tensor(3), constant(3) + 1)


def _distance() -> Tensor:
    return F.pairwise_distance(tensor(2, 3), constant(2, 3), eps=1.0)


BOUND = "the square above this loss is not found, or is a wrong one"
JACOBIAN = "per-sample Jacobians of "
SCALED = "a scaled sum would be read as a plain one, caught only by the random check"
BINARY = "a loss with negative weights would be taken for convex"

FIELDS = [
    Field("MmBackward0", "self", lambda: A @ tensor(3, 4), A, JACOBIAN + "x @ W cannot be read"),
    Field("MmBackward0", "mat2", lambda: tensor(2, 3) @ B, B, JACOBIAN + "W @ x cannot be read"),
    Field(
        "MmBackward0",
        "mat2",
        lambda: A @ tensor(3, 4),
        None,
        "a constant would be taken for the weight",
    ),
    Field(
        "AddmmBackward0",
        "mat1",
        lambda: torch.addmm(tensor(4), A, tensor(3, 4)),
        A,
        JACOBIAN + "linear layers cannot be read",
    ),
    Field(
        "AddmmBackward0",
        "mat2",
        lambda: torch.addmm(tensor(4), tensor(2, 3), B),
        B,
        JACOBIAN + "W as the left factor of addmm cannot be read",
    ),
    Field("AddmmBackward0", "alpha", lambda: torch.addmm(tensor(4), A, B, alpha=2), 2, SCALED),
    Field("AddmmBackward0", "beta", lambda: torch.addmm(tensor(4), A, B, beta=3), 3, SCALED),
    Field(
        "BaddbmmBackward0",
        "batch1",
        lambda: torch.baddbmm(tensor(1), BATCH, tensor(5, 3, 4)),
        BATCH,
        JACOBIAN + "batched linear layers cannot be read",
    ),
    Field(
        "BaddbmmBackward0",
        "batch2",
        lambda: torch.baddbmm(tensor(1), tensor(5, 3, 2), BATCH),
        BATCH,
        JACOBIAN + "W as the left factor of baddbmm cannot be read",
    ),
    Field(
        "BmmBackward0",
        "self",
        lambda: torch.bmm(BATCH, tensor(5, 3, 4)),
        BATCH,
        JACOBIAN + "x @ W for batches cannot be read",
    ),
    Field(
        "BmmBackward0",
        "mat2",
        lambda: torch.bmm(tensor(5, 4, 2), BATCH),
        BATCH,
        JACOBIAN + "W @ x for batches cannot be read",
    ),
    Field("MvBackward0", "self", lambda: A @ tensor(3), A, JACOBIAN + "x @ w cannot be read"),
    Field("AddBackward0", "alpha", lambda: torch.add(A, tensor(3), alpha=2), 2, SCALED),
    Field("SubBackward0", "alpha", lambda: torch.sub(A, tensor(3), alpha=2), 2, SCALED),
    Field("MulBackward0", "other", lambda: tensor(3) * A, A, JACOBIAN + "w * x cannot be read"),
    Field("MulBackward0", "self", lambda: A * tensor(3), A, JACOBIAN + "x * w cannot be read"),
    Field(
        "MulBackward0", "other", lambda: tensor(3) * 2, 2, "a parameter times a number is not found"
    ),
    Field(
        "DivBackward0",
        "other",
        lambda: tensor(3) / 2,
        2,
        "a parameter divided by a number is not found",
    ),
    Field("NativeLayerNormBackward0", "input", _layer_norm, A, JACOBIAN + "layer norm are lost"),
    Field(
        "NativeLayerNormBackward0",
        "result1",
        _layer_norm,
        A.mean(1, keepdim=True),
        "this must be the mean of the normalised dimensions; layer norm would be read wrongly",
    ),
    Field(
        "NativeLayerNormBackward0",
        "result2",
        _layer_norm,
        (CENTRED.square().mean(1, keepdim=True) + 1e-5).rsqrt(),
        "this must be one over the standard deviation; layer norm would be read wrongly",
    ),
    Field("EmbeddingBackward0", "indices", _embedding(), labels(2), JACOBIAN + "it are lost"),
    Field(
        "EmbeddingBackward0",
        "weight_sym_argsize_0",
        _embedding(),
        3,
        "this must be the number of embeddings; per-sample Jacobians of embeddings are lost",
    ),
    Field(
        "EmbeddingBackward0",
        "scale_grad_by_freq",
        lambda: F.embedding(labels(2), tensor(3, 4), scale_grad_by_freq=True),
        True,
        "an embedding whose gradient is scaled by frequency would be read as a plain one",
    ),
    Field("EmbeddingBackward0", "padding_idx", _embedding(1), 1, "padding would be trained"),
    Field("EmbeddingBackward0", "padding_idx", _embedding(-1), 2, "padding would be trained"),
    Field(
        "EmbeddingBackward0",
        "padding_idx",
        _embedding(),
        WRAPPED - 1,
        "no padding is -1, wrapped around: it must lie outside of 0 ... size - 1, or one "
        "embedding is taken for padding",
    ),
    Field("ConvolutionBackward0", "input", _conv2d, IMAGES, JACOBIAN + "convolutions are lost"),
    Field("ConvolutionBackward0", "stride", _conv2d, (2, 3), "other patches would be read"),
    Field("ConvolutionBackward0", "padding", _conv2d, (1, 2), "other patches would be read"),
    Field("ConvolutionBackward0", "dilation", _conv2d, (1, 2), "other patches would be read"),
    Field("ConvolutionBackward0", "groups", _conv2d, 2, "grouped convolutions are read wrongly"),
    Field(
        "ConvolutionBackward0",
        "stride",
        _conv1d,
        (2,),
        "a convolution in one dimension has one stride, to which the reader adds another",
    ),
    Field("ConvolutionBackward0", "padding", _conv1d, (1,), "as for stride"),
    Field("ConvolutionBackward0", "dilation", _conv1d, (3,), "as for stride"),
    Field("ConvolutionBackward0", "transposed", _conv1d, False, "convolutions are not read"),
    Field(
        "ConvolutionBackward0",
        "transposed",
        _transposed,
        True,
        "a transposed convolution would be read as a plain one",
    ),
    Field(
        "TransposeBackward0",
        "dim0",
        lambda: tensor(2, 3).transpose(-2, 1),
        WRAPPED - 2,
        "the transpose of a parameter is read as another rearrangement",
    ),
    Field(
        "TransposeBackward0",
        "dim1",
        lambda: tensor(2, 3).transpose(-2, 1),
        1,
        "the transpose of a parameter is read as another rearrangement",
    ),
    Field(
        "PermuteBackward0",
        "dims",
        lambda: tensor(2, 3, 4).permute(2, -3, 1),
        (2, WRAPPED - 3, 1),
        "a permuted parameter is read as another rearrangement",
    ),
    Field(
        "PowBackward0",
        "exponent",
        lambda: tensor(3) ** 3,
        3,
        "squares are not told from other powers: the loss has no residuals, or wrong ones",
    ),
    Field(
        "PowBackward0",
        "exponent",
        lambda: tensor(3).square(),
        2,
        "torch.square must be a power of 2, or the residuals of most losses are not found",
    ),
    Field(
        "PowBackward0",
        "self",
        lambda: tensor(3) ** 2,
        constant(3),
        "the base is the residual: squares are differentiated by autograd, at a cost",
    ),
    Field(
        "MulBackward0",
        "self",
        lambda: (x := tensor(3)) * x,
        constant(3),
        "x * x is differentiated by autograd, at a cost",
    ),
    Field(
        "DotBackward0",
        "self",
        lambda: (x := tensor(3)) @ x,
        constant(3),
        "x @ x is differentiated by autograd, at a cost",
    ),
    Field(
        "LinalgVectorNormBackward0",
        "ord",
        lambda: tensor(3).norm(p=3),
        3,
        "the Euclidean norm is not told from others, whose square would be misread",
    ),
    Field(
        "LinalgVectorNormBackward0",
        "self",
        lambda: tensor(3).norm(),
        constant(3),
        "the entries of |x| ** 2 are not found as residuals",
    ),
    Field(
        "NormBackward0",
        "p",
        lambda: aten.norm.Scalar(tensor(3), 3),
        3,
        "the Euclidean norm is not told from others, whose square would be misread",
    ),
    Field("NormBackward1", "p", _distance, 2, "distances are not told from others"),
    Field("NormBackward1", "self", _distance, torch.ones(2, 3), "as for vector_norm"),
    Field("NormBackward1", "dim", _distance, (1,), BOUND),
    Field("MseLossBackward0", "self", _mse(), constant(3), "no residual z - y"),
    Field("MseLossBackward0", "target", _mse(), constant(3) + 1, "no residual z - y"),
    Field(
        "MseLossBackward0",
        "reduction",
        _mse("none"),
        0,
        "the second derivative of the loss is off by the number of entries",
    ),
    Field(
        "MseLossBackward0",
        "reduction",
        _mse("mean"),
        1,
        "residuals.MEAN is another number: the curvature is off by the number of entries",
    ),
    Field("MseLossBackward0", "reduction", _mse("sum"), 2, "as for 'none'"),
    Field("AbsBackward0", "self", lambda: tensor(3).abs(), constant(3), BOUND),
    Field("DistBackward0", "self", _dist, constant(3), BOUND),
    Field("DistBackward0", "other", _dist, constant(3) + 1, BOUND),
    Field("DistBackward0", "p", _dist, 2, BOUND),
    Field(
        "LinalgVectorNormBackward0",
        "dim",
        lambda: tensor(2, 3).norm(dim=-1),
        (WRAPPED - 1,),
        BOUND,
    ),
    Field("LinalgVectorNormBackward0", "dim", lambda: tensor(3).norm(), None, BOUND),
    Field("VarBackward0", "self", lambda: tensor(3).var(), constant(3), BOUND),
    Field("VarBackward0", "dim", lambda: tensor(2, 3).var(-1), (WRAPPED - 1,), BOUND),
    Field("VarBackward0", "dim", lambda: tensor(2, 3).var(), None, BOUND),
    Field("VarBackward0", "correction", lambda: tensor(3).var(correction=2), 2, BOUND),
    Field("VarBackward0", "correction", lambda: tensor(3).var(unbiased=False), 0, BOUND),
    Field("StdBackward0", "result", lambda: tensor(3).std(), torch.tensor(1.0), BOUND),
    Field(
        "LogSoftmaxBackward0",
        "result",
        lambda: tensor(2, 3).log_softmax(-1),
        A.log_softmax(1),
        "a cross-entropy in single precision leaves function space where it is small",
    ),
    Field(
        "LogSoftmaxBackward0",
        "dim",
        lambda: tensor(2, 3).log_softmax(-1),
        WRAPPED - 1,
        "a cross-entropy in single precision leaves function space where it is small",
    ),
    Field("BinaryCrossEntropyWithLogitsBackward0", "weight", _bce, constant(3) + 1, BINARY),
    Field("BinaryCrossEntropyWithLogitsBackward0", "pos_weight", _bce, constant(3) + 2, BINARY),
    Field(
        "ConvolutionBackward0",
        "output_padding",
        lambda: F.conv_transpose1d(WAVES, tensor(3, 4, 2), stride=2, output_padding=1),
        (1,),
        "transposed convolutions are read wrongly",
    ),
    Field("EmbeddingBagBackward0", "indices", _bag, BAGS.reshape(-1), JACOBIAN + "bags are lost"),
    Field("EmbeddingBagBackward0", "offsets", _bag, torch.tensor([0, 2]), "other bags are read"),
    Field("EmbeddingBagBackward0", "per_sample_weights", _bag, None, "bags are read wrongly"),
    Field("EmbeddingBagBackward0", "mode", _bag, 0, "a sum must be mode 0"),
    Field(
        "EmbeddingBagBackward0",
        "mode",
        lambda: F.embedding_bag(BAGS, tensor(5, 4), mode="mean"),
        1,
        "a mean must be mode 1",
    ),
    Field("EmbeddingBagBackward0", "weight_sym_argsize_0", _bag, 5, "as for embeddings"),
    Field("EmbeddingBagBackward0", "scale_grad_by_freq", _bag, False, "as for embeddings"),
    Field("EmbeddingBagBackward0", "padding_idx", _bag, WRAPPED - 1, "as for embeddings"),
    Field(
        "IndexBackward0",
        "indices",
        lambda: tensor(5, 4)[:, BAGS[0]],
        (None, BAGS[0]),
        "entries that are taken from a table by number are not read",
    ),
    Field("IndexSelectBackward0", "dim", _selected, WRAPPED - 2, "other entries are read"),
    Field("IndexSelectBackward0", "index", _selected, BAGS[0], "other entries are read"),
    Field("GatherBackward0", "dim", _gathered, 0, "other entries are read"),
    Field("GatherBackward0", "index", _gathered, BAGS, "other entries are read"),
    Field("RepeatBackward0", "repeats", lambda: tensor(3).repeat(4), (4,), "copies are misread"),
    Field(
        "DivBackward0",
        "self",
        lambda: A / tensor(3),
        A,
        JACOBIAN + "x / w cannot be read",
    ),
    Field("DivBackward0", "other", lambda: tensor(3) / A, A, JACOBIAN + "w / x cannot be read"),
    Field("PreluKernelBackward0", "self", lambda: F.prelu(A, tensor(3)), A, "slopes are misread"),
    Field("TrilinearBackward0", "i1", _trilinear, LEFT, JACOBIAN + "bilinear layers are lost"),
    Field("TrilinearBackward0", "i3", _trilinear, RIGHT, JACOBIAN + "bilinear layers are lost"),
    Field("NativeGroupNormBackward0", "input", _group_norm, GROUPS, "group norm is lost"),
    Field(
        "NativeGroupNormBackward0",
        "result1",
        _group_norm,
        GROUPS.reshape(2, 2, 2).mean(2),
        "this must be the mean of each sample's groups; group norm would be read wrongly",
    ),
    Field(
        "NativeGroupNormBackward0",
        "result2",
        _group_norm,
        (GROUPS.reshape(2, 2, 2).var(2, correction=0) + 1e-5).rsqrt(),
        "this must be one over the standard deviation; group norm would be read wrongly",
    ),
    Field("NativeBatchNormBackward0", "input", _batch_norm(True), A, "batch norm is lost"),
    Field("NativeBatchNormBackward0", "training", _batch_norm(True), True, "other statistics"),
    Field("NativeBatchNormBackward0", "training", _batch_norm(False), False, "other statistics"),
    Field(
        "NativeBatchNormBackward0",
        "result1",
        _batch_norm(True),
        A.mean(0),
        "in training mode this must be the mean of the batch",
    ),
    Field(
        "NativeBatchNormBackward0",
        "result2",
        _batch_norm(True),
        (A.var(0, correction=0) + 1e-5).rsqrt(),
        "in training mode this must be one over the standard deviation of the batch",
    ),
    Field(
        "NativeBatchNormBackward0",
        "running_mean",
        _batch_norm(False),
        constant(3),
        "batch norm in evaluation mode would be read wrongly",
    ),
    Field(
        "NativeBatchNormBackward0",
        "running_var",
        _batch_norm(False),
        constant(3) + 1,
        "batch norm in evaluation mode would be read wrongly",
    ),
    Field("NativeBatchNormBackward0", "eps", _batch_norm(False), 1e-5, "as for running_var"),
]
