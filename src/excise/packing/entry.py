"""Entries: what a file says of a packed tensor, checked before anything is made room for."""

from __future__ import annotations

import math
import re
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


_TEXT = re.compile(
    r"(?P<layout>\w+) (?P<dtype>\w+) (?P<shape>-|\d+(?:x\d+)*) (?P<options>-|\w+=\d+(?:,\w+=\d+)*)"
    r" (?P<sections>-|\w+:\d+(?:,\w+:\d+)*) (?P<crc>[0-9a-f]{8})"
)
_LONGEST_TEXT = 4096


def text_of(entry: Mapping[str, Any]) -> str:
    """An entry as a file holds it: `bitmask F32 64x3x3x3 nonzeros=415 bits:256,raw:415 1f2e3d4c`.

    Without a checksum, if there is none yet, it is what the checksum is taken of.
    """
    options = ",".join(f"{key}={value}" for key, value in entry["options"].items())
    sections = ",".join(f"{coder}:{size}" for coder, size in entry["sections"])
    parts = [
        entry["layout"], entry["dtype"], "x".join(map(str, entry["shape"])) or "-", options or "-",
        sections or "-",
    ]  # fmt: skip
    return " ".join([*parts, f"{entry['crc']:08x}"] if "crc" in entry else parts)


def parsed(text: Any) -> dict[str, Any]:
    """The inverse of `text_of`.

    Raises:
        PackedDataError: it is no entry.
    """
    short = isinstance(text, str) and len(text) <= _LONGEST_TEXT
    found = _TEXT.fullmatch(text) if short else None
    if found is None:
        raise PackedDataError(f"{str(text)[:80]!r} is no entry")

    def split(name: str, by: str) -> list[list[str]]:
        whole = found[name]
        return [] if whole == "-" else [part.split(by) for part in whole.split(",")]

    entry = {
        "layout": found["layout"],
        "dtype": found["dtype"],
        "shape": [] if found["shape"] == "-" else [int(n) for n in found["shape"].split("x")],
        "options": {key: int(value) for key, value in split("options", "=")},
        "sections": [[coder, int(size)] for coder, size in split("sections", ":")],
        "crc": int(found["crc"], 16),
    }
    size_of(entry)
    return entry


def _whole(number: Any) -> bool:
    return type(number) is int and 0 <= number <= _LARGEST


def shape_of(dtype: str, shape: tuple[int, ...]) -> Shape:
    """Rows are the first dimension, columns the rest."""
    rows = shape[0] if len(shape) > 1 else 1
    return Shape(dtype, rows, math.prod(shape) // rows if rows else 0)
