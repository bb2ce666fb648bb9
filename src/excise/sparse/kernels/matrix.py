"""A sparse weight in the order in which the kernels read it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from excise.sparse.kernels.geometry import Geometry

MOST_COLUMNS = 1 << 16  # of a block: indices have 16 bits
_PADDING = 64  # values that may be read past the end, and are never used


class Blocks(NamedTuple):
    """Nonzero values by block of columns, then by row, then by column.

    Attributes:
        value: float32, padded with zeros.
        column: int16 holding the 16 bits of each column within its block, padded.
        pointer: int32, (blocks * rows + 1).
        sizes: rows, columns, columns in a block.
    """

    value: Tensor
    column: Tensor
    pointer: Tensor
    sizes: tuple[int, int, int]


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


def blocks_of(weight: Tensor, block: int) -> Blocks:
    """Nonzero values of a (rows, columns) weight, in blocks of so many columns.

    Args:
        weight: float32 on the CPU. Not touched.
        block: at most 65,536; more than there are columns means one block.
    """
    rows, columns = weight.shape
    block = max(1, min(block, columns, MOST_COLUMNS))
    table = weight.detach().numpy()
    row, column = np.nonzero(table)
    order = np.lexsort((column, row, column // block))
    counts = np.zeros(-(-columns // block) * rows, np.int64)
    np.add.at(counts, (column // block) * rows + row, 1)
    pointer = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    value = np.zeros(len(row) + _PADDING, np.float32)
    value[: len(row)] = table[row, column][order]
    index = np.zeros(len(row) + _PADDING, np.uint16)
    index[: len(row)] = (column % block)[order]
    return Blocks(
        torch.from_numpy(value),
        torch.from_numpy(index.view(np.int16)),
        torch.from_numpy(pointer),
        (rows, columns, block),
    )


class Tile(NamedTuple):
    """A tile of the direct convolution: output rows, and vectors of outputs in each."""

    rows: int
    vectors: int


TILES = (
    Tile(1, 7), Tile(2, 7), Tile(2, 4), Tile(3, 4), Tile(4, 4), Tile(4, 2), Tile(7, 2), Tile(4, 1),
    Tile(7, 1),
)  # fmt: skip
"""Those that are compiled."""
_OVERHANG = 8


def direct_of(
    weight: Tensor, channels: int, geometry: Geometry, tile: Tile, short: int
) -> Blocks | None:
    """Nonzero values for the direct convolution: columns are offsets into a gathered tile.

    Args:
        weight: (rows, columns), float32 on the CPU. Not touched.
        channels: of its input that are worked on at once.
        geometry: of the convolution.
        tile: of the outputs.
        short: floats in a vector, from the library.

    Returns:
        None where the kernel does not apply: strides above 2, dilation, kernels wider than 9,
        offsets that do not fit into 16 bits.
    """
    (high, wide), (down, across) = geometry.kernel, geometry.stride
    pitch, deep = tile.vectors * short + _OVERHANG, tile.rows + (high - 1) // down
    channel = down * across * deep * pitch
    plain = max(down, across) <= 2 and geometry.dilation == (1, 1) and wide <= _OVERHANG + 1  # noqa: PLR2004
    if not plain or channels * channel > MOST_COLUMNS:
        return None
    y, x = np.divmod(np.arange(high * wide), wide)
    taps = (((y % down) * across + x % across) * deep + y // down) * pitch + x // across
    blocks = blocks_of(weight, channels * high * wide)
    column = blocks.column.numpy().view(np.uint16).astype(np.int64)
    offset = column // (high * wide) * channel + taps[column % (high * wide)]
    offset[int(blocks.pointer[-1]) :] = 0
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
