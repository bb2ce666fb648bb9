"""Meters: what a budget counts, as a sum of parts that each depend on a few lengths.

A layer's multiply-adds, a tensor's bytes, an operation's milliseconds: each is a part, and knows
the dimensions on which it depends. When one bundle changes, only the parts that carry its axes are
counted again, for all of its widths at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from excise.axes import Axis, Term, flat, leaves
from excise.budget.bundle import Bundle

Floats = npt.NDArray[np.float64]
Amount = Callable[[Sequence[Floats]], Floats]


class Part(NamedTuple):
    """One summand.

    Attributes:
        terms: the dimensions on which it depends.
        amount: their lengths, as arrays of one shape, -> the amount for each entry.
    """

    terms: tuple[Term, ...]
    amount: Amount


class Meter(Protocol):
    """What a budget counts after a cut, smaller = more is removed."""

    def total(self, kept: Mapping[Axis, int]) -> float:
        """The quantity once these axes have these lengths, and the others their own."""
        ...

    def along(self, kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> Floats:
        """The same with one bundle after each of these numbers of steps, less a constant."""
        ...

    def pull(self, kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> Floats:
        """What a price is put on: `along`, or what leads to less where that is flat."""
        ...


def volume(weight: float = 1.0) -> Amount:
    """The amount of a part that is a product of lengths."""

    def amount(lengths: Sequence[Floats]) -> Floats:
        out = np.full(1, weight)
        for length in lengths:
            out = out * length
        return out

    return amount


class Sum:
    """A meter that adds up parts."""

    def __init__(self, parts: Iterable[Part], base: float = 0.0) -> None:
        """Parts without a leaf that may be cut are added up once; `base` is added to all."""
        self.base = base
        self.parts: list[Part] = []
        self.of: dict[Axis, list[int]] = {}
        for part in parts:
            free = {leaf for t in part.terms for leaf in leaves(t) if leaf.pin is None}
            if not free:
                self.base += float(part.amount([_size(t) for t in part.terms])[0])
                continue
            for leaf in free:
                self.of.setdefault(leaf, []).append(len(self.parts))
            self.parts.append(part)

    def total(self, kept: Mapping[Axis, int]) -> float:
        """See `Meter`."""
        lengths = {axis: np.full(1, float(n)) for axis, n in kept.items()}
        amounts = (p.amount([length_of(t, lengths) for t in p.terms]) for p in self.parts)
        return self.base + sum(float(amount[0]) for amount in amounts)

    def along(self, kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> Floats:
        """See `Meter`."""
        touched = sorted({i for axis, _ in bundle.members for i in self.of.get(axis, ())})
        lengths = widths(kept, bundle, steps)
        out = np.zeros(len(steps))
        for i in touched:
            part = self.parts[i]
            out = out + part.amount([length_of(t, lengths) for t in part.terms])
        return out

    def pull(self, kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> Floats:
        """See `Meter`."""
        return self.along(kept, bundle, steps)


def widths(kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> dict[Axis, Floats]:
    """Lengths of axes as arrays: those of a bundle after each number of steps, others as kept."""
    taken = np.asarray(steps, dtype=np.float64)
    lengths = {axis: np.full(1, float(n)) for axis, n in kept.items()}
    return lengths | {axis: axis.size - taken * weight for axis, weight in bundle.members}


def length_of(term: Iterable[Axis], lengths: Mapping[Axis, Floats]) -> Floats:
    """The length of a dimension, for each entry of its axes' lengths."""
    total = np.ones(1)
    for axis in flat(term):
        if axis.parts is not None:
            total = total * sum((length_of([part], lengths) for part in axis.parts), np.zeros(1))
        else:
            known = lengths.get(axis)
            total = total * (axis.size if known is None else known)
    return total


def _size(term: Iterable[Axis]) -> Floats:
    return length_of(term, {})
