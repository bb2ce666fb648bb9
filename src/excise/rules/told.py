"""Lengths that an operation is told, and that the shape of its result does not show.

A slice that starts at 2 has the same shape wherever it starts; a convolution in two groups the same
as one in three. The rehearsal compares these numbers with what the axis graph predicts.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from excise.axes import Axis, Clash, Term, cut_head, flat, size
from excise.rules.table import Scope, argument
from excise.trace import Op

Length = Callable[[Axis], int]


def numbers(op: Op, source: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths that an operation was told, for an input of the given shape."""
    if op.name == "slice":
        dim = argument(op, 1, "dim", 0) % max(len(source), 1)
        return (slice(argument(op, 2, "start"), None).indices(source[dim])[0],)
    if op.name == "constant_pad_nd":
        return tuple(int(n) for n in op.args[1])
    if op.name == "as_strided":
        found = windows(op, source)
        return (-1,) if found is None else found
    place = {"convolution": 8, "native_group_norm": 6, "group_norm": 1}.get(op.name)
    place = 1 if op.name.endswith("channel_shuffle") else place
    return () if place is None else (int(op.args[place]),)


def predicted(s: Scope, op: Op, length: Length) -> tuple[int, ...]:
    """What `numbers` has to give once every axis has the length that `length` says."""
    before = numbers(op, s.shape(op.args[0])) if op.inputs() else ()
    if op.name == "slice":
        term = s.get(op.args[0])[argument(op, 1, "dim", 0)]
        return (_prefix(term, before[0], length),)
    if op.name == "as_strided":
        return before  # windows are pinned, so they read the same places
    if op.name == "constant_pad_nd":
        dims = s.get(op.outs[0])
        return tuple(_padding(dims[-1 - i // 2], n, i % 2, length) for i, n in enumerate(before))
    if not before or before[0] == 1:
        return before
    dims = s.get(op.args[0])
    channels = dims[1] if op.name != "convolution" else dims[1 - len(s.get(op.args[1]))]
    try:
        head, _ = cut_head(channels, before[0])
    except Clash:  # pinned when its rule said so
        return before
    return (_product(head, length),)


def windows(op: Op, source: tuple[int, ...]) -> tuple[int, int, int] | None:
    """How `as_strided` reads a tensor that lies in memory without overlaps, if it slides windows.

    Returns:
        How many dimensions are carried on in front and at the back, and a number that stands for
        the places that the ones between read, counted in the dimensions between. None if it does
        anything else.
    """
    layout = op.kwargs.get("layout")
    shape, strides = tuple(op.args[1]), tuple(op.args[2])
    offset = op.args[3] if len(op.args) > 3 else op.kwargs.get("storage_offset")  # noqa: PLR2004
    if layout is None or offset is not None or math.prod(source) > _LARGEST:
        return None  # an offset counts from where the memory begins, which a trace does not know
    old, new = tuple(zip(source, layout, strict=False)), tuple(zip(shape, strides, strict=True))
    if len(np.unique(_offsets(old))) < math.prod(source):
        return None
    front = _common(old, new)
    back = _common(old[front:][::-1], new[front:][::-1])
    for last in range(back, -1, -1):
        for first in range(front, -1, -1):
            within = _offsets(old[first : len(old) - last])
            read = _offsets(new[first : len(new) - last])
            order = np.argsort(within)
            at = np.searchsorted(within, read, sorter=order).clip(max=len(within) - 1)
            if len(within) and bool((within[order[at]] == read).all()):
                return first, last, zlib.crc32(order[at].astype(np.int64).tobytes())
    return None


_LARGEST = 1 << 22  # numbers in a tensor whose places are written out


def _offsets(dims: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    """Where every element lies, for dimensions with these lengths and strides."""
    found = np.zeros(1, dtype=np.int64)
    for length, stride in dims:
        found = (found[:, None] + np.arange(length)[None, :] * stride).reshape(-1)
    return found


def _common(a: tuple[tuple[int, int], ...], b: tuple[tuple[int, int], ...]) -> int:
    """How many leading dimensions are the same."""
    same = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(same, min(len(a), len(b)))


def _product(term: Term, length: Length) -> int:
    total = 1
    for axis in flat(term):
        total *= length(axis)
    return total


def _padding(term: Term, amount: int, side: int, length: Length) -> int:
    """The length of the stretch that was added before (1: after) a dimension."""
    if amount <= 0:
        return amount
    total = size(term)
    if side == 0:
        return _prefix(term, amount, length)
    return _product(term, length) - _prefix(term, total - amount, length)


def _prefix(term: Term, position: int, length: Length) -> int:
    """Where a position in a dimension comes to lie; a position inside of an axis stays."""
    axes = flat(term)
    if not axes or not position:
        return position
    block = size(axes[1:])
    need, found = position // block, 0
    if position % block:
        return position
    for part in axes[0].parts or [axes[0]]:
        if not need:
            break
        if part.size > need:
            inside = flat([part])
            if len(inside) == 1 and inside[0].parts is None:
                return position
            return (found + _prefix(inside, need, length)) * _product(axes[1:], length)
        found += _product([part], length) if part.size > 1 else part.size
        need -= part.size
    return found * _product(axes[1:], length)
