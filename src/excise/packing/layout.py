"""Layouts: where the nonzero words of a tensor stand, and the words themselves.

Every layout turns words into named runs of bytes and back. Runs are coded by `section`; how long a
run is follows from the entry and from the runs before it, so that nothing is made room for on the
word of a file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from excise.packing.rans import Bytes
from excise.packing.word import Words, filled, planes_of, width_of

Read = Callable[[str, int], Bytes]
"""The next run: its name for the error message, and how many bytes it has to have."""
Options = dict[str, int]
Runs = Iterator[tuple[str, Bytes]]


class Shape(NamedTuple):
    """What a layout has to know of a tensor: its dtype's name, rows and columns."""

    dtype: str
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.rows * self.columns


class Layout(NamedTuple):
    """One way of writing words down.

    Attributes:
        options: words and shape -> numbers that the entry keeps, or None where it does not apply.
        keys: the names of those numbers.
        runs: words, shape, options -> runs of bytes; a run named "raw:..." is stored as it is.
        read: the inverse: the runs in the same order, each of a length that is known by then.
    """

    options: Callable[[Words, Shape], Options | None]
    keys: frozenset[str]
    runs: Callable[[Words, Shape, Options], Runs]
    read: Callable[[Read, Shape, Options], Words]


def plane_runs(words: Words, dtype: str) -> Runs:
    """The words as a run for each of their bytes."""
    for i, plane in enumerate(planes_of(words, dtype)):
        yield f"plane{i}", plane


def read_planes(read: Read, into: Words, dtype: str) -> None:
    """The words again, one run in memory at a time."""
    width = width_of(dtype).itemsize
    filled(into, (read(f"plane{i}", len(into)) for i in range(width)), dtype)
