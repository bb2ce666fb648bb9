"""Words: a tensor's elements as unsigned integers of their bits, so that nothing is rounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from excise.errors import PackedDataError
from excise.packing.rans import Bytes

Words = npt.NDArray[Any]
"""Unsigned integers of one, two, four or eight bytes."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""As safetensors names them."""
_CHUNK = 1 << 20  # words that are turned at once
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_WIDTHS: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}


def words_of(tensor: Tensor) -> Words:
    """The bits of every element, in order of memory of a contiguous tensor; on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():  # torch gives it a stride that it does not view
        return np.zeros(0, _WIDTHS[tensor.element_size()])
    raw = flat.view(torch.uint8) if flat.dtype is not torch.bool else flat.to(torch.uint8)
    return raw.numpy().view(_WIDTHS[tensor.element_size()])


def plain(words: Words, dtype: str) -> Words:
    """The same with 0.0 for every -0.0, which masks leave behind where a weight was negative."""
    if not DTYPES[dtype].is_floating_point:
        return words
    negative = words.dtype.type(1 << (8 * words.dtype.itemsize - 1))
    return np.where(words == negative, words.dtype.type(0), words)


def tensor_of(words: Words, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `words_of`; shares memory with the words."""
    raw = torch.from_numpy(words.view(np.uint8))
    kind = DTYPES[dtype]
    if kind is torch.bool:
        if raw.numel() and int(raw.max()) > 1:
            raise PackedDataError("a boolean is neither 0 nor 1")
        return raw.bool().reshape(shape)
    return raw.view(kind).reshape(shape)


def width_of(dtype: str) -> np.dtype[Any]:
    """The type of the words of a dtype."""
    return _WIDTHS[torch.empty(0, dtype=DTYPES[dtype]).element_size()]


def planes_of(words: Words, dtype: str) -> list[Bytes]:
    """The first byte of every word, the second byte of every word, and so on.

    The sign of a float is moved to the lowest bit first, so that the last plane holds the exponent
    and little else.
    """
    width = words.dtype.itemsize
    turned = _rotated(words, 1) if DTYPES[dtype].is_floating_point else words
    table = turned.view(np.uint8).reshape(-1, width)
    return [np.ascontiguousarray(table[:, i]) for i in range(width)]


def filled(into: Words, planes: Iterable[Bytes], dtype: str) -> None:
    """The inverse of `planes_of`, in place; one plane in memory at a time."""
    width = into.dtype.itemsize
    table = into.view(np.uint8).reshape(-1, width)
    for i, plane in enumerate(planes):
        table[:, i] = plane
    if DTYPES[dtype].is_floating_point:
        for first in range(0, len(into), _CHUNK):
            into[first : first + _CHUNK] = _rotated(into[first : first + _CHUNK], -1)


def _rotated(words: Words, by: int) -> Words:
    bits = 8 * words.dtype.itemsize
    left, right = words.dtype.type(by % bits), words.dtype.type(-by % bits)
    out: Words = (words << left) | (words >> right)
    return out
