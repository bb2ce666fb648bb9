"""Blocks: a bit for every block of rows and columns, then all words of those that are there."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from excise.errors import PackedDataError
from excise.packing.layout import Layout, Options, Read, Runs, Shape, plane_runs, read_planes
from excise.packing.word import Words, width_of

_BLOCKS = ((1, 4), (4, 1), (4, 4), (8, 8), (16, 16), (32, 32))


def _options(words: Words, shape: Shape) -> Options | None:
    """The block with which least is stored."""
    best: tuple[float, int, int] | None = None
    for rows, columns in _BLOCKS:
        if shape.rows % rows == 0 and shape.columns % columns == 0 and shape.size:
            there = _there(words, shape, rows, columns)
            stored = rows * columns * int(there.sum()) + there.size / 8 / words.itemsize
            best = min(best or (math.inf, 0, 0), (stored, rows, columns))
    return None if best is None else {"rows": best[1], "columns": best[2]}


def _there(words: Words, shape: Shape, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    grid = words.reshape(shape.rows // rows, rows, shape.columns // columns, columns)
    found: npt.NDArray[np.bool_] = (grid != 0).any(axis=(1, 3))
    return found


def _runs(words: Words, shape: Shape, options: Options) -> Runs:
    rows, columns = options["rows"], options["columns"]
    there = _there(words, shape, rows, columns)
    grid = words.reshape(shape.rows // rows, rows, shape.columns // columns, columns)
    yield "mask", np.packbits(there.reshape(-1), bitorder="little")
    yield from plane_runs(grid.transpose(0, 2, 1, 3)[there].reshape(-1), shape.dtype)


def _read(read: Read, shape: Shape, options: Options) -> Words:
    rows, columns = options["rows"], options["columns"]
    if rows < 1 or columns < 1 or shape.rows % rows or shape.columns % columns:
        raise PackedDataError(f"blocks of {rows} by {columns} in {shape.rows} by {shape.columns}")
    high, wide = shape.rows // rows, shape.columns // columns
    mask = read("mask", (high * wide + 7) // 8)
    there = np.unpackbits(mask, count=high * wide, bitorder="little").view(bool)
    out = np.zeros(shape.size, width_of(shape.dtype))
    values = np.empty(int(there.sum()) * rows * columns, out.dtype)
    read_planes(read, values, shape.dtype)
    grid = out.reshape(high, rows, wide, columns).transpose(0, 2, 1, 3)
    grid[there.reshape(high, wide)] = values.reshape(-1, rows, columns)
    return out


BLOCK = Layout(_options, frozenset({"rows", "columns"}), _runs, _read)
