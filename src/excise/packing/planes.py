"""Planes: every word, zeros and all; floats lose a sixth to a third by their exponents alone."""

from __future__ import annotations

import numpy as np

from excise.packing.layout import Layout, Options, Read, Runs, Shape, plane_runs, read_planes
from excise.packing.word import Words, width_of


def _runs(words: Words, shape: Shape, options: Options) -> Runs:
    del options
    return plane_runs(words, shape.dtype)


def _read(read: Read, shape: Shape, options: Options) -> Words:
    del options
    out = np.empty(shape.size, width_of(shape.dtype))
    read_planes(read, out, shape.dtype)
    return out


PLANES = Layout(lambda _words, _shape: {}, frozenset(), _runs, _read)
