"""Bitmask: a bit for every word, then the words that are not zero."""

from __future__ import annotations

import numpy as np

from excise.errors import PackedDataError
from excise.packing.layout import Layout, Options, Read, Runs, Shape, plane_runs, read_planes
from excise.packing.rans import Bytes
from excise.packing.word import Words, width_of

_CHUNK = 1 << 20  # words that are placed at once; whole bytes of the mask


def _options(words: Words, shape: Shape) -> Options:
    del shape
    return {"nonzeros": int(np.count_nonzero(words))}


def _runs(words: Words, shape: Shape, options: Options) -> Runs:
    del options
    there = words != 0
    yield "mask", np.packbits(there, bitorder="little")
    yield from plane_runs(words[there], shape.dtype)


def _read(read: Read, shape: Shape, options: Options) -> Words:
    mask = read("mask", (shape.size + 7) // 8)
    out = np.zeros(shape.size, width_of(shape.dtype))
    start = shape.size - options["nonzeros"]
    read_planes(read, out[start:], shape.dtype)
    _spread(mask, out, start)
    return out


def _spread(mask: Bytes, out: Words, start: int) -> None:
    """Move the words that stand at the end of `out` to where the mask has a bit, zeros elsewhere.

    In place: up to any position no more words were placed than zeros and words were passed, so that
    a word is never written over before it is read.
    """
    for first in range(0, len(out), _CHUNK):
        size = min(_CHUNK, len(out) - first)
        bits = np.unpackbits(mask[first // 8 :], count=size, bitorder="little").view(bool)
        here = int(np.count_nonzero(bits))
        if start + here > len(out) or first + size > start + here:
            raise PackedDataError("its mask has another number of bits than there are values")
        values = out[start : start + here].copy()
        start += here
        part = out[first : first + size]
        part[:] = 0
        part[bits] = values
    if start != len(out):
        raise PackedDataError("its mask has fewer bits than there are values")


BITMASK = Layout(_options, frozenset({"nonzeros"}), _runs, _read)
