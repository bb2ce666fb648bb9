"""What every operation of a model takes, in milliseconds, over its input and output widths.

Kernels work in blocks: 17 channels take as long as 32, and 32 hardly longer than 17. So each
operation is run alone at widths on both sides of every step that a block could make, and the
staircase that comes out is what a budget of milliseconds is spent on.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from excise.measure.latency import wait
from excise.measure.replay import Place, Replay

Floats = npt.NDArray[np.float64]
_SMALL = 24  # widths up to here are all tried
_BLOCK = 8  # channels: no kernel's block is smaller, larger ones are multiples
_STEPS = 12  # of a staircase that are looked at
_COARSE = (1.0, 0.7, 0.4, 0.1)  # shares of both widths at which their interplay is measured
_LEAST = 0.1  # of a width; below it the time at that width stands
_TURN_S = 2e-4  # an operation is repeated for so long in each round
_FEWEST, _ROUNDS = 3, 15
_AGAIN = 1.06  # times that are closer than this are the same time, seen twice
_FAINT = 0.001  # operations of a smaller share of the total are proportional to their widths
_TOGETHER = 0.6  # of what two cuts alone let expect: then the kernel wants the widths equal
_PAIR = 2


class Twin(NamedTuple):
    """Two widths that were equal in the dense model, and milliseconds at each length of both."""

    first: int
    second: int
    edge: Floats


class Profile(NamedTuple):
    """One operation's milliseconds as a function of its widths.

    Attributes:
        widths: the dense lengths.
        edges: for each width the time at each length from 0, the other widths dense.
        marks: for each of two widths how much each length (row) is of each coarse one (column).
        grid: at the coarse lengths of both, what the two make of the product of each alone.
        twin: two widths for whose kernel it is another matter whether they are equal, and the time
            at each length of both, the others dense.
        added: the widths' effects add up, as in a concatenation, and do not multiply.
    """

    widths: tuple[int, ...]
    dense: float
    edges: tuple[Floats, ...]
    marks: tuple[Floats, ...] = ()
    grid: Floats = np.zeros((0, 0))
    twin: Twin | None = None
    added: bool = False

    def __call__(self, lengths: Sequence[Floats]) -> Floats:
        """Milliseconds at these widths: arrays of one shape, or of length 1."""
        places = [np.rint(n).astype(np.int64) for n in lengths]
        shares = [edge[n] / self.dense for edge, n in zip(self.edges, places, strict=True)]
        if self.added:
            return np.maximum(0.0, self.dense * (1 + sum((s - 1 for s in shares), np.zeros(1))))
        if self.twin is not None:
            i, j, edge = self.twin
            apart = np.maximum(shares[i], shares[j])
            together = edge[places[i]] / self.dense
            shares[j] = np.where(places[i] == places[j], together, apart)
            shares[i] = np.ones(1)
        out = np.full(1, self.dense)
        for share in shares:
            out = out * share
        if len(self.grid):  # how far the two together are from the product of each alone
            rows, columns = (m[n] for m, n in zip(self.marks, places, strict=True))
            out = out * ((rows @ self.grid) * columns).sum(-1)
        return out


class Row(NamedTuple):
    """An operation of a model in the table: its profile, and where in the graph it is."""

    place: Place
    profile: Profile


_known: dict[tuple[Any, ...], Profile] = {}
"""Profiles that were measured in this process, by operation, widths, threads and share."""


def table(places: Sequence[Place], *, seconds: float = 60.0) -> list[Row]:
    """Measure every operation at many widths; those that were measured before are looked up.

    Args:
        places: the operations, from `watched`.
        seconds: about how long this may take. The operations that take longest come first; those
            that it does not suffice for count as proportional to their widths.
    """
    threads = torch.get_num_threads()
    deadline = time.perf_counter() + seconds
    kinds = {(place.replay.key, threads): place.replay for place in places}
    new = {key: replay for key, replay in kinds.items() if key not in _known}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        times = _timed([(replay, replay.widths) for replay in new.values()], deadline)
        dense = dict(zip(new, times, strict=True))
        counts = Counter((place.replay.key, threads) for place in places)
        total = sum(counts[key] * one for key, one in dense.items())
        for key, replay in sorted(new.items(), key=lambda item: -counts[item[0]] * dense[item[0]]):
            faint = counts[key] * dense[key] < _FAINT * total
            late = time.perf_counter() > deadline
            _known[key] = _profile(replay, dense[key], deadline, plain=faint or late)
    return [Row(place, _known[place.replay.key, threads]) for place in places]


@functools.cache
def call_ms() -> float:
    """What Python takes to call a module that does next to nothing, in milliseconds."""
    module, x = nn.Identity(), torch.zeros(1)
    device = x.device
    return 1e3 * min(_one(lambda: module(x), device, 200) for _ in range(_ROUNDS))


def ladder(size: int) -> list[int]:
    """The lengths at which a width is measured: ascending, both sides of each step."""
    least = max(1, math.ceil(_LEAST * size))
    if size <= _SMALL:
        return list(range(least, size + 1))
    step = max(_BLOCK, _BLOCK * math.ceil(size / _STEPS / _BLOCK))
    stairs = {n for m in range(step, size, step) for n in (m, m + 1)}
    return sorted({least, size, *(n for n in stairs if least < n < size)})


def coarse(size: int) -> list[int]:
    """The few lengths at which two widths are measured together, ascending."""
    found = {max(1, math.ceil(share * size)) for share in _COARSE}
    if size > _SMALL:  # at the foot of a step, where the staircase is measured as well
        found = {n if n == size else max(_BLOCK, n // _BLOCK * _BLOCK) for n in found}
    return sorted(found)


def _points(replay: Replay) -> list[tuple[int, ...]]:
    """All widths at which an operation is measured, dense first."""
    dense = replay.widths
    points = [dense]
    for i, size in enumerate(dense):
        points += [(*dense[:i], n, *dense[i + 1 :]) for n in ladder(size) if n != size]
    if len(dense) == _PAIR:
        points += [(a, b) for a in coarse(dense[0]) for b in coarse(dense[1])]
    return list(dict.fromkeys(points))


def _profile(replay: Replay, dense: float, deadline: float, *, plain: bool) -> Profile:
    """The staircase of one operation; proportional to what comes out where it cannot be run."""
    widths = replay.widths
    if not widths:
        return Profile((), dense, ())
    if plain or not _runs(replay):
        line = [np.maximum(np.arange(n + 1) / n, 1e-3) * dense for n in widths]
        return Profile(widths, dense, tuple(line), added=replay.name == "cat")
    points = _points(replay)
    found = dict(zip(points, _timed([(replay, p) for p in points], deadline), strict=True))
    dense = found[widths]
    edges = [_edge(found, widths, (i,)) for i in range(len(widths))]
    twin = _twin(replay, found, deadline)
    if len(widths) != _PAIR or twin is not None:
        return Profile(widths, dense, tuple(edges), twin=twin, added=replay.name == "cat")
    positions = [coarse(n) for n in widths]
    grid = np.array([[found[a, b] for b in positions[1]] for a in positions[0]])
    alone = [edge[at] / dense for edge, at in zip(edges, positions, strict=True)]
    grid = grid / (dense * alone[0][:, None] * alone[1][None, :])
    marks = tuple(_marks(n, at) for n, at in zip(widths, positions, strict=True))
    return Profile(widths, dense, tuple(edges), marks, grid)


def _edge(
    found: Mapping[tuple[int, ...], float], widths: tuple[int, ...], places: tuple[int, ...]
) -> Floats:
    """Milliseconds at each length of some widths that move together, the others dense."""
    size = widths[places[0]]
    knots = ladder(size)
    times = [found[_moved(widths, places, n)] for n in knots]
    line: Floats = np.interp(np.arange(size + 1), knots, times)
    return line


def _moved(widths: tuple[int, ...], places: tuple[int, ...], length: int) -> tuple[int, ...]:
    return tuple(length if i in places else n for i, n in enumerate(widths))


def _twin(replay: Replay, found: Mapping[tuple[int, ...], float], deadline: float) -> Twin | None:
    """The pair of equal widths that it is much faster to cut together than to cut one of."""
    widths = replay.widths
    for pair in itertools.combinations(range(len(widths)), 2):
        size = widths[pair[0]]
        if size != widths[pair[1]] or replay.name == "cat":
            continue
        half = ladder(size)[len(ladder(size)) // 2]
        (both,) = _timed([(replay, _moved(widths, pair, half))], deadline)
        alone = math.prod(found[_moved(widths, (i,), half)] / found[widths] for i in pair)
        if both < _TOGETHER * found[widths] * alone:
            points = [_moved(widths, pair, n) for n in ladder(size)]
            times = _timed([(replay, point) for point in points], deadline)
            known = dict(zip(points, times, strict=True))
            return Twin(*pair, _edge(known, widths, pair))
    return None


def _marks(size: int, positions: Sequence[int]) -> Floats:
    """Linear interpolation as a matrix: (size + 1, positions)."""
    every = np.arange(size + 1)
    return np.stack([np.interp(every, positions, row) for row in np.eye(len(positions))], 1)


def _runs(replay: Replay) -> bool:
    """Whether an operation, alone and narrow, makes what the axes say."""
    narrow = [max(1, n // 2 // _BLOCK * _BLOCK) if n > _BLOCK else n for n in replay.widths]
    try:
        return replay.fits(replay.call(narrow)(), narrow)
    except Exception:  # noqa: BLE001 - whatever it is, it cannot be measured at this width
        return False


def _timed(points: Sequence[tuple[Replay, Sequence[int]]], deadline: float) -> list[float]:
    """Milliseconds of each: the least of some rounds in which all take their turn.

    What else runs on the machine only ever adds to the time of so short a thing, so the least is
    believed once it was seen twice.
    """
    times: list[list[float]] = [[] for _ in points]
    repeats = [0] * len(points)
    for number in range(_ROUNDS):
        if number and time.perf_counter() > deadline:
            break
        open_ = [i for i, found in enumerate(times) if not _sure(found)]
        for i in open_:
            replay, lengths = points[i]
            try:
                call = replay.call(lengths)
                device = replay.tensors[0].device
                once = _one(call, device, 1)
                if not repeats[i]:
                    once = _one(call, device, 1)
                    repeats[i] = max(1, min(200, round(_TURN_S / max(once, 1e-7))))
                times[i].append(_one(call, device, repeats[i]) * 1e3)
            except Exception:  # noqa: BLE001 - what does not run takes no time that is known
                times[i] = [0.0, 0.0, 0.0]
        if not open_:
            break
    return [min(found) for found in times]


def _sure(times: Sequence[float]) -> bool:
    """Whether the least of several times is no accident."""
    if len(times) < _FEWEST:
        return False
    first, second = sorted(times)[:2]
    return second <= _AGAIN * first


def _one(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds of one call; of the processor where one thread of it does all."""
    now = time.perf_counter
    if device.type == "cpu" and torch.get_num_threads() == 1:
        now = time.process_time
    wait(device)
    start = now()
    for _ in range(repeats):
        call()
    wait(device)
    return (now() - start) / repeats
