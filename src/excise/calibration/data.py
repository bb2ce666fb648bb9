"""Calibration data of any usual form, as batches of positional and keyword inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from excise.errors import CalibrationError
from excise.ranks import jointly, present

HELD = 5
"""Every so many batches judge what the others were fitted to."""


class Batch(NamedTuple):
    """Inputs of one call of a model: `model(*args, **kwargs)`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def samples(self) -> int:
        """Length of the first dimension of the first tensor; 1 if there is none."""
        every = (*self.args, *self.kwargs.values())
        return next((len(v) for v in every if isinstance(v, Tensor) and v.dim()), 1)


class Share(NamedTuple):
    """Which of all batches these are, where several ranks have some: one of each rank in turn.

    Attributes:
        places: the number of each batch of this rank.
        sizes: how many samples each of all batches holds.
    """

    places: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def batches(self) -> int:
        """How many there are on all ranks."""
        return len(self.sizes)

    @property
    def samples(self) -> int:
        """How many they hold."""
        return sum(self.sizes)

    @property
    def starts(self) -> tuple[int, ...]:
        """How many samples come before each batch of this rank."""
        ends = [0, *itertools.accumulate(self.sizes)]
        return tuple(ends[place] for place in self.places)

    def of(self, given: Sequence[Batch]) -> Iterator[tuple[int, int, Batch]]:
        """Number, samples before, and batch."""
        return zip(self.places, self.starts, given, strict=True)

    @property
    def judges(self) -> frozenset[int]:
        """Numbers of the batches that are held out: every fifth, or the last; none of a single one.

        What is fitted to some samples looks better on them than it is, the more so the fewer.
        """
        if self.batches < 2:  # noqa: PLR2004 - one to fit to, one to judge by
            return frozenset()
        return frozenset(range(HELD - 1, self.batches, HELD)) or frozenset({self.batches - 1})

    def only(self, numbers: Iterable[int]) -> Share:
        """The share of this rank in some of all batches, counted anew in the same order."""
        chosen = sorted(numbers)
        mine = tuple(i for i, n in enumerate(chosen) if n in self.places)
        return Share(mine, tuple(self.sizes[n] for n in chosen))

    def parts(self, given: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
        """This rank's batches to fit to, and those to judge by."""
        judges = self.judges
        fit = [batch for place, _, batch in self.of(given) if place not in judges]
        return fit, [batch for place, _, batch in self.of(given) if place in judges]


def share(given: Sequence[Batch]) -> Share:
    """Place the batches of this rank among those of all.

    Raises:
        RanksError: another rank has failed.
    """
    ranks = present()
    sizes = ranks.each([batch.samples for batch in given])
    turns = sorted((i, rank) for rank, mine in enumerate(sizes) for i in range(len(mine)))
    mine = tuple(n for n, (_, rank) in enumerate(turns) if rank == ranks.rank)
    return Share(mine, tuple(sizes[rank][i] for i, rank in turns))


@jointly
def batches(
    calibration: Any,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    samples: int | None = None,
) -> list[Batch]:
    """Read calibration data into batches.

    The example input says what a model takes. A batch may hold more, as the labels in a loader's
    `(images, labels)` or in a dictionary: what the example does not have is left out.

    Where several ranks calibrate together each reads its own share, and `samples` counts those of
    all of them, one batch of each rank in turn; every rank reads at least one batch.

    Fewer than five batches leave few to hold out. They are cut into smaller ones, where all their
    tensors have one first length and the example has another: then that length is free.

    Args:
        calibration: one tensor or dictionary (one batch), or an iterable of batches, each a tensor,
            a tuple or list of positional inputs, or a dictionary of keyword inputs.
        inputs: the positional example inputs.
        kwargs: the keyword example inputs.
        samples: stop after the batch with which this many samples are reached; None reads all.

    Raises:
        CalibrationError: there is no batch, or one cannot be the input of this model.
    """
    single = isinstance(calibration, (Tensor, Mapping))
    if not single and not isinstance(calibration, Iterable):
        raise CalibrationError(f"a {type(calibration).__name__} holds no batches")
    ranks, found, seen = present(), list[Batch](), 0
    items = enumerate([calibration] if single else calibration)
    while samples is None or not found or seen < samples:
        drawn = next(items, None)
        if drawn is not None:
            found.append(_batch(drawn[1], drawn[0], inputs, kwargs))
        if not found:
            raise CalibrationError("it holds no batch")
        sizes = [None if drawn is None else found[-1].samples]
        if samples is not None:
            sizes = ranks.each(sizes[0])
        if all(size is None for size in sizes):
            break
        before = seen + sum(size or 0 for size in sizes[: ranks.rank])
        if drawn is not None and len(found) > 1 and samples is not None and before >= samples:
            found.pop()  # those of lower ranks in this turn are enough
        seen += sum(size or 0 for size in sizes)
    few = sum(ranks.each(len(found)))
    pieces = -(-HELD // few)
    free = Batch(inputs, dict(kwargs)).samples
    return [part for batch in found for part in _pieces(batch, pieces, free)]


def _pieces(batch: Batch, pieces: int, length: int) -> list[Batch]:
    """A batch in pieces, unless its first length is that of the example or not that of samples."""
    leaves, form = tree_flatten((batch.args, batch.kwargs))
    lengths = {len(leaf) if leaf.dim() else 0 for leaf in leaves if isinstance(leaf, Tensor)}
    if pieces == 1 or lengths != {batch.samples} or batch.samples in {length, 0, 1}:
        return [batch]
    size = -(-batch.samples // pieces)
    parts = [
        torch.split(leaf, size) if isinstance(leaf, Tensor) else itertools.repeat(leaf)
        for leaf in leaves
    ]
    return [Batch(*tree_unflatten(list(row), form)) for row in zip(*parts, strict=False)]


def _batch(item: Any, place: int, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
    if isinstance(item, Mapping):
        if not kwargs and len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return Batch((item,), {})
        if not kwargs and len(inputs) <= len(item):  # the example was given by position
            return Batch(tuple(itertools.islice(item.values(), len(inputs))), {})
        missing = [name for name in kwargs if name not in item]
        if missing:
            raise CalibrationError(f"batch {place} has no {missing[0]!r}, as the example has")
        return Batch(tuple(inputs), {name: item[name] for name in kwargs})
    given = (item,) if isinstance(item, Tensor) else item
    if not isinstance(given, (tuple, list)):
        raise CalibrationError(f"batch {place} is a {type(item).__name__}")
    if not inputs and kwargs:
        if len(given) < len(kwargs):
            raise CalibrationError(f"batch {place} has {len(given)} inputs of {len(kwargs)}")
        return Batch((), dict(zip(kwargs, given, strict=False)))
    if len(given) < len(inputs):
        raise CalibrationError(f"batch {place} has {len(given)} inputs of {len(inputs)}")
    return Batch(tuple(given[: len(inputs)]), dict(kwargs))
