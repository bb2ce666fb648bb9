"""Timing: the fastest way of a layer on the input that it really gets, here and now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from excise.sparse.kernels import (
    MOST_VECTORS,
    Borrowed,
    Geometry,
    Library,
    available,
    library,
)
from excise.sparse.layer import LENT, Sparse, SparseConv2d, Way

_ROUNDS = 5
_HOPELESS = 1.5  # times slower than the fastest in a first round: not tried again
_MOST_FLOATS = 24576  # of a tile of inputs: twice what a first-level cache holds
_LONGEST_S = 0.5  # for the rounds of a layer, once each way has run twice: a large batch takes long
_ROUND_S = 0.004  # a call that is shorter is repeated within a round


class Timing(NamedTuple):
    """One layer: milliseconds of the dense layer and of each way, the least of several rounds.

    Attributes:
        name: of the layer.
        zeros: share of its weights.
        dense_ms: of the layer as it was.
        sparse_ms: of the fastest way.
        way: that way.
    """

    name: str
    zeros: float
    dense_ms: float
    sparse_ms: float
    way: Way

    @property
    def gain(self) -> float:
        """How many times faster than dense; below 1 if slower."""
        return self.dense_ms / self.sparse_ms


def ways(layer: Sparse, x: Tensor) -> Iterator[Way]:
    """The ways worth timing for this input."""
    if isinstance(available(), Borrowed):
        yield LENT
        return
    if isinstance(layer, SparseConv2d):
        places = (False, True) if layer.geometry.is_product else (False,)
        for tiles in (2, 4, 7):
            for block in (64, 128, 256):
                for in_place in places:
                    yield Way("tiles", tiles, block, in_place)
        yield from _direct(layer, x)
        return
    if x.numel() == layer.shape[1]:
        yield Way("gemv")
        yield Way("mask")
    for tiles in (1, 2, 3, 4):
        for block in (128, 192, 512):
            yield Way("tiles", tiles, block)


def _direct(layer: SparseConv2d, x: Tensor) -> Iterator[Way]:
    found = library()
    if isinstance(found, Library) and not layer.geometry.is_product:
        yield from direct_ways(layer.geometry, tuple(x.shape), found.lanes)


def direct_ways(geometry: Geometry, shape: tuple[int, ...], lanes: int) -> Iterator[Way]:
    """Tiles of a direct convolution that fit its output, and whose inputs fit the nearest cache.

    Args:
        geometry: of the convolution.
        shape: of its input, (images, channels, height, width).
        lanes: floats in a vector.
    """
    (high, wide), (down, _), _, (step, _) = geometry
    tall, width = geometry.out((shape[2], shape[3]))
    vectors = min(MOST_VECTORS, -(-width // lanes))
    shapes = {(vectors, rows) for rows in (MOST_VECTORS // vectors, MOST_VECTORS // vectors // 2)}
    shapes.add((-(-vectors // 2), 1))
    for vectors, rows in sorted(shapes):
        if not rows or (rows > 1 and rows >= 2 * tall):
            continue
        deep = rows + (high - 1) * step // down
        for channels in (4, 8, 16, 32, 64):
            planes = min(down, (high - 1) * step + 1)
            floats = channels * wide * planes * deep * vectors * lanes
            if channels < 2 * shape[1] and floats <= _MOST_FLOATS:
                yield Way("direct", vectors, channels, rows=rows)


@torch.no_grad()
def timed(name: str, dense: nn.Module, layer: Sparse, x: Tensor) -> Timing:
    """Time a dense layer and every way of its sparse one in turn, and set the fastest.

    The rounds of all candidates are interleaved, so that what else runs on the machine slows all of
    them alike.
    """
    candidates = list(ways(layer, x))
    least = [float("inf")] * (len(candidates) + 1)
    begun = time.perf_counter()
    for turn in range(_ROUNDS):
        if turn > 1 and time.perf_counter() - begun > _LONGEST_S:
            break
        least[-1] = min(least[-1], _seconds(lambda: dense(x)))
        for i, way in enumerate(candidates):
            if turn and least[i] > _HOPELESS * min(least):
                continue
            layer.way = way
            least[i] = min(least[i], _seconds(lambda: layer(x)))
    best = min(range(len(candidates)), key=least.__getitem__)
    layer.way = candidates[best]
    layer.forget()
    return Timing(name, layer.zeros, 1e3 * least[-1], 1e3 * least[best], layer.way)


def _seconds(call: Callable[[], object]) -> float:
    """The mean of as many calls as fit into a round, the first of which is not counted."""
    call()
    start = time.perf_counter()
    done = 0
    while True:
        call()
        done += 1
        spent = time.perf_counter() - start
        if spent > _ROUND_S:
            return spent / done
