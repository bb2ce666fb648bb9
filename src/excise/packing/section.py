"""Sections: a run of bytes, stored as it is, range coded or deflated, whichever is smallest."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from excise.errors import PackedDataError
from excise.packing.rans import (
    BITS,
    Bytes,
    Coded,
    bit_classes_of,
    bit_frequencies,
    decode,
    encode,
    lanes_for,
)

_LEVEL = 6
_RAW_DEFLATE = -15  # no header and no checksum of zlib's own: the tensor has one
_WORTH = 0.98  # a coder that saves less is not worth its time
_TABLE = 256 * 2
_FEW = 64  # bytes that are not worth a table
_CLASSES = 9 * 2


class Section(NamedTuple):
    """How a run of bytes is stored.

    Attributes:
        coder: "raw", "rans", "bits" (rans with shares by the number of bits) or "deflate".
        size: bytes that it takes in the file.
    """

    coder: str
    size: int


def write(values: Bytes, coder: str | None = None, *, mask: bool = False) -> tuple[Section, bytes]:
    """Store bytes by a coder, or by the one that makes them smallest; `mask` says they are bits."""
    found = {"raw": values.tobytes()}
    if coder == "bits" or (coder is None and mask and values.size):
        found["bits"] = _ranged(values, bits=True)
    if coder == "rans" or (coder is None and values.size > _FEW):
        found["rans"] = _ranged(values)
    if coder == "deflate" or (coder is None and values.size):
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW_DEFLATE)
        found["deflate"] = packer.compress(found["raw"]) + packer.flush()
    if coder is None:
        coder = min(found, key=lambda name: len(found[name]) * (_WORTH if name == "raw" else 1))
    return Section(coder, len(found[coder])), found[coder]


def read(section: Section, data: memoryview, count: int) -> Bytes:
    """The bytes again; `count` of them, or an error before they are made room for.

    Raises:
        PackedDataError: the data is of another length, or damaged.
    """
    if section.coder == "raw":
        if len(data) != count:
            raise PackedDataError(f"a section of {len(data)} bytes should have {count}")
        return np.frombuffer(data, np.uint8)
    if section.coder in {"rans", "bits"}:
        return decode(_parsed(data, count, bits=section.coder == "bits"), count)
    if section.coder == "deflate":
        return _inflated(data, count)
    raise PackedDataError(f"there is no coder {section.coder!r}")


def _inflated(data: memoryview, count: int) -> Bytes:
    unpacker = zlib.decompressobj(_RAW_DEFLATE)
    try:
        found = unpacker.decompress(data, count + 1)
    except zlib.error as error:
        raise PackedDataError(f"a deflated section is damaged ({error})") from error
    if len(found) != count or not unpacker.eof or unpacker.unused_data:
        raise PackedDataError(f"a deflated section does not hold {count} bytes")
    return np.frombuffer(found, np.uint8)


def _ranged(values: Bytes, *, bits: bool = False) -> bytes:
    """The table, states, words."""
    if bits:
        classes = bit_classes_of(values)
        coded, head = encode(values, bit_frequencies(classes)), classes.astype("<u2").tobytes()
    else:
        coded = encode(values)
        packer = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE)
        table = packer.compress(coded.frequencies.astype("<u2").tobytes()) + packer.flush()
        head = len(table).to_bytes(2, "little") + table
    return head + coded.states.astype("<u4").tobytes() + coded.words.astype("<u2").tobytes()


def _parsed(data: memoryview, count: int, *, bits: bool) -> Coded:
    length = _CLASSES if bits else 2 + int.from_bytes(data[:2], "little")
    if len(data) < length:
        raise PackedDataError("a coded section has no whole table")
    if bits:
        frequencies = bit_frequencies(np.frombuffer(data[:length], "<u2"))
    else:
        frequencies = _inflated(data[2:length], _TABLE).view("<u2")
    if int(frequencies.sum(dtype=np.int64)) != 1 << BITS:
        raise PackedDataError("the frequencies of a coded section do not add up")
    rest = data[length:]
    states = 4 * lanes_for(count)
    if len(rest) < states or (len(rest) - states) % 2:
        raise PackedDataError("a coded section has another length than its bytes need")
    return Coded(
        frequencies,
        np.frombuffer(rest[:states], "<u4"),
        np.frombuffer(rest[states:], "<u2"),
    )
