"""CSR with 16-bit columns: for each row how many, where, and what; stored so that it can be run."""

from __future__ import annotations

import numpy as np

from excise.errors import PackedDataError
from excise.packing.layout import Layout, Options, Read, Runs, Shape
from excise.packing.word import Words, width_of

_COLUMNS = 1 << 16
_CHUNK = 1 << 18  # values that are placed at once


def _options(words: Words, shape: Shape) -> Options | None:
    fits = shape.columns <= _COLUMNS
    return {"nonzeros": int(np.count_nonzero(words))} if fits else None


def _runs(words: Words, shape: Shape, options: Options) -> Runs:
    del options
    table = words.reshape(shape.rows, shape.columns)
    rows, columns = np.nonzero(table)
    counts = np.bincount(rows, minlength=shape.rows).astype("<u4")
    yield "raw:counts", counts.view(np.uint8)
    yield "raw:columns", columns.astype("<u2").view(np.uint8)
    yield "raw:values", table[rows, columns].view(np.uint8)


def _read(read: Read, shape: Shape, options: Options) -> Words:
    width, nonzeros = width_of(shape.dtype), options["nonzeros"]
    if shape.columns > _COLUMNS:
        raise PackedDataError(f"{shape.columns} columns for an index of 16 bits")
    counts = read("raw:counts", 4 * shape.rows).view("<u4")
    columns = read("raw:columns", 2 * nonzeros).view("<u2")
    values = read("raw:values", width.itemsize * nonzeros).view(width)
    if int(counts.sum(dtype=np.uint64)) != nonzeros:
        raise PackedDataError("its rows do not have as many values as it has")
    out = np.zeros(shape.size, width)
    table, ends = out.reshape(shape.rows, shape.columns), np.cumsum(counts, dtype=np.int64)
    for first in range(0, nonzeros, _CHUNK):
        part = slice(first, min(first + _CHUNK, nonzeros))
        rows = np.searchsorted(ends, np.arange(part.start, part.stop), side="right")
        _check(rows, columns[part], shape.columns)
        table[rows, columns[part]] = values[part]
    if int(np.count_nonzero(out)) != nonzeros:
        raise PackedDataError("two values stand in one place, or one is zero")
    return out


def _check(rows: Words, columns: Words, wide: int) -> None:
    if columns.size and int(columns.max()) >= wide:
        raise PackedDataError(f"column {int(columns.max())} of {wide}")
    same = np.diff(rows) == 0
    if bool((np.diff(columns.astype(np.int64))[same] <= 0).any()):
        raise PackedDataError("the columns of a row do not ascend")


CSR16 = Layout(_options, frozenset({"nonzeros"}), _runs, _read)
