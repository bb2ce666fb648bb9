"""A sparse weight in the order in which the kernels read it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from excise.sparse.kernels.geometry import Geometry

MOST_COLUMNS = 1 << 16  # of a block: indices have 16 bits
_PADDING = 64  # values that may be read past the end, and are never used
SPAN = 128  # rows among which the order is free


class Blocks(NamedTuple):
    """Nonzero values by block of columns, then by place of the row, then by column.

    Attributes:
        value: float32, padded with zeros.
        column: int16 holding the 16 bits of each column within its block, padded.
        pointer: int32, (blocks * rows + 1) of where each place begins, then (blocks * rows) of
            which row stands there.
        sizes: rows, columns, columns in a block, rows within which places are sorted.
    """

    value: Tensor
    column: Tensor
    pointer: Tensor
    sizes: tuple[int, int, int, int]

    @property
    def stored(self) -> int:
        """How many values there are."""
        return int(self.pointer[-(-self.sizes[1] // self.sizes[2]) * self.sizes[0]])


class Bits(NamedTuple):
    """Nonzero values in row-major order, and a bit for every column.

    Attributes:
        value: float32, padded with zeros.
        mask: int64, (rows, words) of 64 bits, the lowest first.
        pointer: int32, (rows + 1).
        sizes: rows, columns.
    """

    value: Tensor
    mask: Tensor
    pointer: Tensor
    sizes: tuple[int, int]


def blocks_of(weight: Tensor, block: int, span: int = SPAN) -> Blocks:
    """Nonzero values of a (rows, columns) weight, in blocks of so many columns.

    Args:
        weight: float32 on the CPU. Not touched.
        block: at most 65,536; more than there are columns means one block.
        span: rows are sorted by their number of values among so many; 1 leaves them in order.
    """
    rows, columns = weight.shape
    block = max(1, min(block, columns, MOST_COLUMNS))
    parts = -(-columns // block)
    whole = np.zeros((rows, parts * block), np.float32)
    whole[:, :columns] = weight.detach().numpy()
    cube = whole.reshape(rows, parts, block).transpose(1, 0, 2)
    counts = np.count_nonzero(cube, axis=2)
    most_first = np.arange(rows) // span * (block + 1) - counts
    order = np.argsort(most_first, axis=1, kind="stable")
    arranged = np.take_along_axis(cube, order[:, :, None], 1)
    there = np.nonzero(arranged)
    pointer = np.zeros(2 * parts * rows + 1, np.int32)
    np.cumsum(np.take_along_axis(counts, order, 1).ravel(), out=pointer[1 : parts * rows + 1])
    pointer[parts * rows + 1 :] = order.ravel()
    value = np.zeros(len(there[0]) + _PADDING, np.float32)
    value[: len(there[0])] = arranged[there]
    index = np.zeros(len(there[0]) + _PADDING, np.uint16)
    index[: len(there[0])] = there[2]
    return Blocks(
        torch.from_numpy(value),
        torch.from_numpy(index.view(np.int16)),
        torch.from_numpy(pointer),
        (rows, columns, block, span),
    )


class Tile(NamedTuple):
    """A tile of the direct convolution: output rows, and vectors of outputs in each."""

    rows: int
    vectors: int


MOST_VECTORS = 8  # of a tile: as many as were compiled


def direct_of(
    weight: Tensor, channels: int, geometry: Geometry, tile: Tile, span: int = SPAN
) -> Blocks | None:
    """Nonzero values for the direct convolution: columns are offsets into a gathered tile.

    Args:
        weight: (rows, columns), float32 on the CPU. Not touched.
        channels: of its input that are worked on at once.
        geometry: of the convolution.
        tile: of the outputs, of at most `MOST_VECTORS`.
        span: as in `blocks_of`.

    Returns:
        None where offsets do not fit into 16 bits.
    """
    (high, wide), (down, _), (step_y, _) = geometry.kernel, geometry.stride, geometry.dilation
    deep = tile.rows + (high - 1) * step_y // down
    planes = min(down, (high - 1) * step_y + 1)
    channel = wide * planes * deep * tile.vectors
    if channels * channel > MOST_COLUMNS:
        return None
    dy, dx = np.divmod(np.arange(high * wide), wide)
    dy = dy * step_y
    taps = ((dx * planes + dy % down) * deep + dy // down) * tile.vectors
    blocks = blocks_of(weight, channels * high * wide, span)
    column = blocks.column.numpy().view(np.uint16).astype(np.int64)
    offset = column // (high * wide) * channel + taps[column % (high * wide)]
    offset[blocks.stored :] = 0
    return blocks._replace(column=torch.from_numpy(offset.astype(np.uint16).view(np.int16)))


def bits_of(weight: Tensor) -> Bits:
    """Nonzero values of a (rows, columns) weight, with a bit for every column.

    Args:
        weight: float32 on the CPU. Not touched.
    """
    rows, columns = weight.shape
    table = weight.detach().numpy()
    there = table != 0
    words = -(-columns // 64)
    wide = np.zeros((rows, words * 64), bool)
    wide[:, :columns] = there
    mask = np.packbits(wide, axis=1, bitorder="little").view("<i8")
    value = np.concatenate([table[there], np.zeros(_PADDING, np.float32)])
    pointer = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32)
    return Bits(
        torch.from_numpy(value),
        torch.from_numpy(np.ascontiguousarray(mask)),
        torch.from_numpy(pointer),
        (rows, columns),
    )
