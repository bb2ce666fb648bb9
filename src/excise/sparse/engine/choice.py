"""The fastest way of a layer, dense or sparse, as timed here on memory that lies as it will."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from excise.sparse import reference
from excise.sparse.engine.layout import SLACK, Place
from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.step import Step, step_of
from excise.sparse.kernels import MOST_VECTORS, Library, library
from excise.sparse.layer import Way

MIN_ZEROS = 0.3
_ROUNDS = 6
_HOPELESS = 1.25  # times slower than the fastest in a first round: not tried again
_CACHE = 12288  # floats of a first-level cache that a tile may fill
_DENSE = Way("dense")
Call = Callable[..., Tensor]


class Dense:
    """A layer by torch's own operators, where zeros do not pay.

    Attributes:
        out: as of a step.
    """

    def __init__(self, layer: Layer, place: Place) -> None:
        self.layer, self.place = layer, place
        self._run = self._linear if layer.kind == "linear" else self._convolution
        self.out: Tensor | None = None
        self.__name__ = self.__qualname__ = "dense"  # graphs ask what they call for its name
        self.activation = reference.ACTIVATIONS[layer.activation]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run it."""
        layer, y = self.layer, self._run(x)
        if residual is not None and not layer.late:
            y += residual
        y = self.activation(y)
        if residual is not None and layer.late:
            y += residual
        if self.out is not None and self.place.plane:  # there with slack, and planes apart
            return self.out.copy_(y)
        return y.contiguous()

    def _linear(self, x: Tensor) -> Tensor:
        weight: Any = self.layer.weight
        return functional.linear(x, weight, self.layer.bias).view(self.place.shape)

    def _convolution(self, x: Tensor) -> Tensor:
        layer: Any = self.layer
        _, stride, padding, dilation = layer.geometry
        return functional.conv2d(x, layer.weight, layer.bias, stride, padding, dilation)


def ways(layer: Layer, source: Place, place: Place) -> Iterator[Way]:
    """The ways worth timing."""
    found = library()
    assert isinstance(found, Library)  # noqa: S101 - the backend asks before it plans
    if layer.kind not in {"conv", "linear"}:
        yield Way("plane")
        return
    yield _DENSE
    assert layer.weight is not None  # noqa: S101 - these two have one
    zeros = 1 - int(torch.count_nonzero(layer.weight)) / layer.weight.numel()
    if zeros < MIN_ZEROS and layer.kind == "linear":
        return  # a convolution is tried: it is fused, and the stem of a network is weak in torch
    if layer.kind == "linear":
        if source.floats == layer.weight.shape[1]:
            yield Way("gemv")
            if source.floats % 64 == 0:  # else it would have to be padded at every call
                yield Way("mask")
        yield from _products(source.floats // layer.weight.shape[1], found.lanes, (False,))
    elif layer.geometry is not None and layer.geometry.is_product:
        yield from _products(place.shape[2] * place.shape[3], found.lanes, (True, False))
    else:
        yield from _direct(layer, source, place, found.lanes)
        yield from _products(place.shape[2] * place.shape[3], found.lanes, (False,))


def _products(columns: int, lanes: int, in_place: tuple[bool, ...]) -> Iterator[Way]:
    vectors = -(-columns // lanes)
    for tiles in sorted({min(tiles, vectors) for tiles in (3, 4, 6, 8)}):
        for block in (64, 96, 128, 192, 256):
            if 1 / 3 <= block * tiles * lanes / _CACHE <= 2:  # noqa: PLR2004
                for place in in_place:
                    yield Way("tiles", tiles, block, place)


def _direct(layer: Layer, source: Place, place: Place, lanes: int) -> Iterator[Way]:
    assert layer.geometry is not None  # noqa: S101 - a convolution has one
    (high, wide), (down, _), _, (step, _) = layer.geometry
    tall, width = place.shape[2:]
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
            if channels < 2 * source.shape[1] and floats <= 2 * _CACHE:
                yield Way("direct", vectors, channels, rows=rows)


def made(layer: Layer, way: Way, source: Place, place: Place) -> Step | Dense | None:
    """What runs a layer in a way."""
    return Dense(layer, place) if way == _DENSE else step_of(layer, way, source, place)


def chosen(layer: Layer, source: Place, place: Place) -> Way:
    """The fastest way, by rounds in which all take turns."""
    candidates = list(ways(layer, source, place))
    if len(candidates) == 1:
        return candidates[0]
    x, out = _space(source).normal_(), _space(place)
    residual = None if layer.residual is None else _space(place).normal_()
    calls: list[tuple[Way, Any]] = []
    for way in candidates:
        call = made(layer, way, source, place)
        if call is not None:
            call.out = out
            if isinstance(call, Step):
                call.loose = False
            calls.append((way, call))
    least = [float("inf")] * len(calls)
    for turn in range(_ROUNDS):
        for i, (_, call) in enumerate(calls):
            if turn < 2 or least[i] <= _HOPELESS * min(least):  # noqa: PLR2004 - one to warm up
                start = time.perf_counter()
                call(x, residual)
                least[i] = min(least[i], time.perf_counter() - start)
    return calls[min(range(len(calls)), key=least.__getitem__)][0]


def _space(place: Place) -> Tensor:
    whole = torch.zeros(place.floats + SLACK + 16)
    start = (-whole.data_ptr() // 4) % 16
    return whole.as_strided(place.shape, place.stride, start)
