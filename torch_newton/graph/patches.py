"""The patches of images that a convolution multiplies by its weight, all of them or some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad, unfold


@dataclass(frozen=True)
class Patches:
    """How a convolution in two dimensions takes its patches; each pair is rows and columns.

    Attributes:
        kernel: the size of a patch.
        dilation: from one entry of a patch to the next.
        padding: zeros at each side.
        stride: from one patch to the next.
        groups: G, parts of the channels that have weights of their own.
        places: rows and columns of patches that count, where there may be more: behind a
            transposed convolution with output padding.
    """

    kernel: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    places: tuple[int, int] | None = None

    def of(self, images: Tensor, chosen: Tensor | None) -> Tensor:
        """Patches of N x C x height x width, as G x n x (C / G) kh kw.

        Args:
            images: N images.
            chosen: n numbers of patches, those of the first image before those of the second;
                None for all.
        """
        if chosen is None:
            patches = unfold(images, self.kernel, self.dilation, self.padding, self.stride)
            if self.places is not None:
                rows, columns = self.places
                grid = patches.reshape(*patches.shape[:2], *self._grid(images.shape[2:]))
                patches = grid[..., :rows, :columns].flatten(2)
            return self.at_places(patches, None)
        taken = self._windows(images)[self._places(images, chosen)]
        return self._by_group(taken)

    def at_places(self, values: Tensor, chosen: Tensor | None) -> Tensor:
        """Of N x (G a) x places the values at these places, as G x n x a."""
        if chosen is not None:
            places = values.shape[2]
            return self._by_group(values[chosen // places, :, chosen % places])
        return self._by_group(values.transpose(1, 2).flatten(0, 1))

    def _by_group(self, vectors: Tensor) -> Tensor:
        return vectors.reshape(len(vectors), self.groups, -1).transpose(0, 1)

    def _windows(self, images: Tensor) -> Tensor:
        """A view, N x rows x columns x C x kh x kw, of the padded images."""
        top, side = self.padding
        windows = pad(images, (side, side, top, top))
        for dim, (size, step, gap) in enumerate(
            zip(self.kernel, self.stride, self.dilation, strict=True), start=2
        ):
            windows = windows.unfold(dim, gap * (size - 1) + 1, step)
        windows = windows[..., :: self.dilation[0], :: self.dilation[1]]
        return windows.permute(0, 2, 3, 1, 4, 5)

    def _places(self, images: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = self.counts(images.shape[2:])
        image, place = chosen // (rows * columns), chosen % (rows * columns)
        return image, place // columns, place % columns

    def counts(self, size: Sequence[int]) -> tuple[int, int]:
        """How many patches of an image of this size count, in each direction."""
        return self._grid(size) if self.places is None else self.places

    def _grid(self, size: Sequence[int]) -> tuple[int, int]:
        rows, columns = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return rows, columns

    def number(self, images: Tensor) -> int:
        """How many patches images have together."""
        return len(images) * math.prod(self.counts(images.shape[2:]))
