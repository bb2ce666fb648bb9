"""Entries: what a file says of a packed tensor, checked before anything is made room for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from excise.errors import PackedDataError
from excise.packing.bitmask import BITMASK
from excise.packing.block import BLOCK
from excise.packing.csr import CSR16
from excise.packing.layout import Shape
from excise.packing.pattern import NM
from excise.packing.planes import PLANES
from excise.packing.word import DTYPES, width_of

LAYOUTS = {"planes": PLANES, "bitmask": BITMASK, "csr16": CSR16, "nm": NM, "block": BLOCK}
_LARGEST = 1 << 46  # bytes; no machine holds more, and products of it do not overflow
_KEYS = {"layout", "dtype", "shape", "options", "sections", "crc"}


def size_of(entry: Any) -> int:
    """Bytes of the tensor that an entry describes, once every part of it has been checked.

    Raises:
        PackedDataError: saying which part.
    """
    if not isinstance(entry, Mapping) or entry.keys() != _KEYS:
        raise PackedDataError("its entry has other fields")
    if entry["layout"] not in LAYOUTS or entry["dtype"] not in DTYPES:
        raise PackedDataError(f"layout {entry['layout']!r} or dtype {entry['dtype']!r} is unknown")
    shape, options, sections = entry["shape"], entry["options"], entry["sections"]
    if not isinstance(shape, list) or not all(_whole(n) for n in shape):
        raise PackedDataError("its shape is no list of lengths")
    size = math.prod(shape) * width_of(entry["dtype"]).itemsize
    if size > _LARGEST or any(n > _LARGEST for n in shape):
        raise PackedDataError(f"its shape is {shape}")
    if not isinstance(options, dict) or not all(_whole(n) for n in options.values()):
        raise PackedDataError("its options are no numbers")
    if options.keys() != LAYOUTS[entry["layout"]].keys or options.get("nonzeros", 0) > math.prod(
        shape
    ):
        raise PackedDataError(f"its options are {options}")
    pairs = isinstance(sections, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _whole(pair[1])  # noqa: PLR2004
        for pair in sections
    )
    if not pairs or not _whole(entry["crc"]):
        raise PackedDataError("its sections are no pairs of a coder and a length")
    return size


def _whole(number: Any) -> bool:
    return type(number) is int and 0 <= number <= _LARGEST


def shape_of(dtype: str, shape: tuple[int, ...]) -> Shape:
    """Rows are the first dimension, columns the rest."""
    rows = shape[0] if len(shape) > 1 else 1
    return Shape(dtype, rows, math.prod(shape) // rows if rows else 0)
