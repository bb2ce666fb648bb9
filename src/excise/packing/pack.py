"""Pack one tensor into bytes, and back: bit for bit, but for the sign of zeros."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from excise.errors import InvalidTargetError, PackedDataError
from excise.packing.entry import LAYOUTS, shape_of, size_of, text_of
from excise.packing.rans import Bytes
from excise.packing.section import Section, read, write
from excise.packing.word import NAMES, Words, plain, tensor_of, words_of


class Packed(NamedTuple):
    """A tensor's bytes, and what has to be known to read them.

    Attributes:
        entry: layout, dtype, shape, options, sections and checksum; plain JSON.
        data: the sections, one after the other.
    """

    entry: dict[str, Any]
    data: bytes


def pack(tensor: Tensor, layout: str = "auto", *, signed_zeros: bool = False) -> Packed | None:
    """Write a tensor down in less room.

    Args:
        tensor: of any shape, of a dtype that safetensors knows. Not touched.
        layout: "planes" for every word; "bitmask"; "csr16" (uncompressed, ready to run from);
            "nm" for 2:4 and its kin; "block". Rows are the first dimension, columns the rest.
            "auto" takes what is smallest.
        signed_zeros: keep -0.0 as it is. By default it becomes 0.0, which equals it: masks leave
            -0.0 wherever a weight was negative, and their signs would cost as much as the mask.

    Returns:
        None if the layout does not apply to this tensor, or, with "auto", if nothing is smaller
        than the tensor as it is.

    Raises:
        InvalidTargetError: no such layout.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise InvalidTargetError("layout", repr(layout), f"auto or one of {', '.join(LAYOUTS)}")
    dtype = NAMES.get(tensor.dtype)
    if dtype is None or tensor.is_meta or tensor.layout is not torch.strided:
        return None
    words = words_of(tensor)
    words = words if signed_zeros else plain(words, dtype)
    if layout != "auto":
        return _packed(words, tensor, dtype, layout)
    tries = (_packed(words, tensor, dtype, name) for name in _likely(words))
    best = min((p for p in tries if p is not None), key=lambda p: len(p.data), default=None)
    return best if best is not None and len(best.data) < words.nbytes else None


def _likely(words: Words) -> tuple[str, ...]:
    """Layouts worth trying: a tensor with few zeros is not worth a mask."""
    zeros = 1 - np.count_nonzero(words) / max(1, words.size)
    return ("bitmask", "nm", "block") if zeros > 1 / (8 * words.itemsize) else ("planes",)


def _packed(words: Words, tensor: Tensor, dtype: str, layout: str) -> Packed | None:
    shape = shape_of(dtype, tuple(tensor.shape))
    options = LAYOUTS[layout].options(words, shape)
    if options is None:
        return None
    sections, parts = [], []
    for name, run in LAYOUTS[layout].runs(words, shape, options):
        coder = "raw" if name.startswith("raw:") else None
        section, data = write(run, coder, mask=name == "mask")
        sections.append([section.coder, section.size])
        parts.append(data)
    data = b"".join(parts)
    entry = {
        "layout": layout,
        "dtype": dtype,
        "shape": list(tensor.shape),
        "options": options,
        "sections": sections,
    }
    return Packed(entry | {"crc": checksum(entry, data)}, data)


def checksum(entry: Mapping[str, Any], data: bytes | memoryview) -> int:
    """CRC-32 of what an entry says, but for the checksum, and of the data."""
    text = text_of({key: value for key, value in entry.items() if key != "crc"})
    return zlib.crc32(data, zlib.crc32(text.encode()))


def unpack(entry: Mapping[str, Any], data: bytes | memoryview) -> Tensor:
    """Read a tensor again.

    Nothing larger than twice what the entry says the tensor takes is ever allocated; compare that
    (`size_of`) with what is expected before.

    Raises:
        PackedDataError: the entry is none, or the data is not what it says.
    """
    size_of(entry)
    view = memoryview(data)
    sections = [Section(*pair) for pair in entry["sections"]]
    if sum(section.size for section in sections) != len(view):
        raise PackedDataError("its sections are not as long as its data")
    if checksum(entry, view) != entry["crc"]:
        raise PackedDataError("its checksum is another")
    left, start = iter(sections), 0

    def next_run(name: str, count: int) -> Bytes:
        nonlocal start
        section = next(left, None)
        if section is None:
            raise PackedDataError(f"it has no {name}")
        start += section.size
        return read(section, view[start - section.size : start], count)

    shape = shape_of(entry["dtype"], tuple(entry["shape"]))
    words = LAYOUTS[entry["layout"]].read(next_run, shape, dict(entry["options"]))
    if next(left, None) is not None:
        raise PackedDataError("it has a section too many")
    return tensor_of(words, entry["dtype"], tuple(entry["shape"]))
