"""N:M: in every m neighbours of a row n words and their places, as in 2:4."""

from __future__ import annotations

import numpy as np

from excise.errors import PackedDataError
from excise.packing.layout import Layout, Options, Read, Runs, Shape, plane_runs, read_planes
from excise.packing.rans import Bytes
from excise.packing.word import Words, width_of


def _options(words: Words, shape: Shape) -> Options | None:
    """The smallest group that never holds more than half of its words: 2:4, else 4:8, else 1:2."""
    for m in (4, 8, 2):
        if shape.size and shape.columns % m == 0:
            most = int(np.count_nonzero(words.reshape(-1, m), axis=1).max())
            if most <= m // 2:
                return {"n": max(1, most), "m": m}
    return None


def _runs(words: Words, shape: Shape, options: Options) -> Runs:
    n, m = options["n"], options["m"]
    groups = words.reshape(-1, m)
    order = np.argsort(groups == 0, axis=1, kind="stable")[:, :n]
    order.sort(axis=1)
    yield "places", _packed(order.astype(np.uint8).reshape(-1), m)
    yield from plane_runs(np.take_along_axis(groups, order, axis=1).reshape(-1), shape.dtype)


def _read(read: Read, shape: Shape, options: Options) -> Words:
    n, m = options["n"], options["m"]
    if m not in {2, 4, 8} or not 0 < n <= m or shape.columns % m:
        raise PackedDataError(f"a pattern of {n}:{m} over {shape.columns} columns")
    groups = shape.size // m
    each = 8 // _bits(m)
    places = _unpacked(read("places", -(-groups * n // each)), m, groups * n).reshape(groups, n)
    if bool((np.diff(places.astype(np.int16), axis=1) <= 0).any()):
        raise PackedDataError("the places of a group do not ascend")
    out = np.zeros(shape.size, width_of(shape.dtype))
    read_planes(read, values := np.empty(groups * n, out.dtype), shape.dtype)
    table, rows = out.reshape(groups, m), np.arange(groups)
    for i in range(n):
        table[rows, places[:, i]] = values[i::n]
    return out


def _bits(m: int) -> int:
    """Bits of a place, a power of two so that places do not straddle bytes."""
    return {2: 1, 4: 2, 8: 4}[m]


def _packed(places: Bytes, m: int) -> Bytes:
    each = 8 // _bits(m)
    padded = np.zeros(-(-places.size // each) * each, np.uint8)
    padded[: places.size] = places
    shifts = np.arange(each, dtype=np.uint8) * _bits(m)
    found: Bytes = (padded.reshape(-1, each) << shifts).sum(axis=1, dtype=np.uint8)
    return found


def _unpacked(packed: Bytes, m: int, count: int) -> Bytes:
    shifts = np.arange(8 // _bits(m), dtype=np.uint8) * np.uint8(_bits(m))
    mask = np.uint8((1 << _bits(m)) - 1)
    found: Bytes = ((packed[:, None] >> shifts) & mask).reshape(-1)[:count]
    if found.size and int(found.max()) >= m:
        raise PackedDataError(f"place {int(found.max())} of {m}")
    return found


NM = Layout(_options, frozenset({"n", "m"}), _runs, _read)
