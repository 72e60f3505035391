r"""Which parameters share one Kronecker-factored matrix: a weight, and the bias beside it.

A weight W whose derivative is :math:`\sum_i l_i r_i^T`, and the bias of the same operation, whose
derivative is :math:`\sum_i l_i`, are one matrix (W, b), with :math:`r_i` continued by a one.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .additions import added_to
from .readers import Uses
from .use import Use
from .views import Place

Shape = tuple[int, int, int]

LEFT, RIGHT = -2, -1
"""The dimensions of a block's matrices along which a bias may continue the weight."""


@dataclass(frozen=True)
class Block:
    """Parameters as G matrices of a x b.

    Attributes:
        weight: the number of a parameter of any shape, read as G x a' x b'.
        shape: (G, a', b') of that parameter.
        bias: the number of the parameter that continues it by a row or a column.
        along: which of the two: `LEFT` for a row, `RIGHT` for a column.
        factored: whether its uses are known as outer products; of another only the diagonal is
            estimated.
    """

    weight: int
    shape: Shape
    bias: int | None = None
    along: int = RIGHT
    factored: bool = True

    @property
    def members(self) -> list[int]:
        """The numbers of its parameters."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def joined_shape(self) -> Shape:
        """(G, a, b)."""
        groups, a, b = self.shape
        if self.bias is None:
            return self.shape
        return (groups, a + 1, b) if self.along == LEFT else (groups, a, b + 1)

    def joined(self, pieces: Sequence[Tensor]) -> Tensor:
        """G x a x b, of tensors shaped like all parameters."""
        matrix = pieces[self.weight].reshape(self.shape)
        if self.bias is None:
            return matrix
        bias = pieces[self.bias].reshape(self.shape[0], -1)
        return torch.cat([matrix, bias.unsqueeze(self.along)], self.along)

    def parted(self, matrix: Tensor) -> list[Tensor]:
        """The inverse of `joined`: for each of `members` its entries."""
        if self.bias is None:
            return [matrix.reshape(-1)]
        length = self.shape[self.along]
        parts = matrix.narrow(self.along, 0, length), matrix.narrow(self.along, length, 1)
        return [part.reshape(-1) for part in parts]


def find_blocks(found: Uses, params: Sequence[Tensor]) -> list[Block]:
    """The blocks of all parameters, in the order of their weights."""
    uses: dict[int, list[Use]] = {i: [] for i in range(len(params))}
    for use in found.uses:
        uses[use.param].append(use)
    shapes = {i: _shape(uses[i], param) for i, param in enumerate(params)}
    biases = _biases(uses, shapes, found.shared)
    joined = {bias for bias, _ in biases.values()}
    blocks = []
    for i, param in enumerate(params):
        if i in joined or param.numel() == 0:
            continue
        shape = shapes[i]
        if shape is None:
            blocks.append(Block(i, (1, param.numel(), 1), factored=False))
        else:
            blocks.append(Block(i, shape, *biases.get(i, (None, RIGHT))))
    return blocks


def _shape(uses: Sequence[Use], param: Tensor) -> Shape | None:
    """(G, a, b), the same for all uses of a parameter; None where there is no such form."""
    if param.is_complex() or any(_is_complex(use) for use in uses):
        return None
    shapes = {_shape_in(use, param.numel()) for use in uses}
    return shapes.pop() if len(shapes) == 1 else None


def _is_complex(use: Use) -> bool:
    return use.operand is not None and use.operand.is_complex()


def _shape_in(use: Use, entries: int) -> Shape:
    if use.pairs is not None:
        return use.pairs.shape
    if use.index is not None:
        return (1, use.number, entries // max(use.number, 1))
    if use.operand is None:
        return (1, entries, 1)
    width = use.operand.shape[-1]
    rest = entries // max(width, 1)
    return (1, rest, width) if use.cotangent_is_left else (1, width, rest)


def _biases(
    uses: dict[int, list[Use]], shapes: dict[int, Shape | None], shared: Container[Place]
) -> dict[int, tuple[int, int]]:
    """For weights that have one the bias beside them, and along which side it continues them.

    That is what is added wherever it is used. A weight may have further uses, in derivatives of
    the network, to which nothing is added.
    """
    weights = {}
    for i, found in uses.items():
        products = [use for use in found if use.operand is not None or use.pairs is not None]
        if found and len(products) == len(found) and shapes[i] is not None:
            weights[i] = {use.output: use.cotangent_is_left for use in products}
    biases: dict[int, tuple[int, int]] = {}
    for i, found in uses.items():
        shape = shapes[i]
        if not found or shape is None or not all(_is_sum(use) for use in found):
            continue
        for weight, sides in weights.items():
            outputs = {beside(use, sides, shared) for use in found}
            if weight in biases or None in outputs:
                continue
            lefts = {sides[output] for output in outputs if output is not None}
            groups, a, b = shapes[weight] or shape
            if len(lefts) == 1 and groups * (a if True in lefts else b) == shape[1]:
                biases[weight] = i, RIGHT if True in lefts else LEFT
                break
    return biases


def beside(
    use: Use, among: Container[GradientEdge], shared: Container[Place]
) -> GradientEdge | None:
    """Which of the outputs of a weight's uses a bias is used beside."""
    return use.output if use.output in among else added_to(use.output, among, shared)


def _is_sum(use: Use) -> bool:
    """Whether the parameter is added to what an operation makes of another one."""
    return use.operand is None and use.pairs is None and use.index is None
