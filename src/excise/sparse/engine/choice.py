"""The fastest way of a layer, dense or sparse, as timed here on memory that lies as it will."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from excise.sparse import reference
from excise.sparse.candidate import MIN_ZEROS, share_of_zeros
from excise.sparse.engine.layout import SLACK, Place
from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.step import Step, step_of
from excise.sparse.kernels import Library, library
from excise.sparse.layer import Way
from excise.sparse.tune import direct_ways

_ROUNDS = 6
_HOPELESS = 1.25  # times slower than the fastest in a first round: not tried again
_TILES = (
    (3, 256), (4, 96), (4, 128), (4, 192), (4, 256), (6, 96), (6, 128), (6, 192), (8, 64), (8, 96),
    (8, 128),
)  # fmt: skip
_UNFOLDED = ((4, 128), (4, 192), (6, 96), (8, 64))  # vectors of a tile, columns of a block
_PAIRED = ((4, 128), (4, 256), (6, 96), (6, 128), (8, 64), (8, 128))
_GROUPS = (8, 16, 32, 64, 128)  # channels at a time
_CACHE = 1 << 20  # bytes of what lies between the two of a pair: half of a second-level cache
_ENOUGH = 2e8  # multiply-adds of the dense layer: one call on so many tells what is fastest
_LONGEST_S = 0.4  # for the rounds of a layer, once each way has run twice
_PATIENCE_S = 1.5  # for a layer in all: where threads wait for each other, a call may take long
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
    if layer.parts is not None:
        yield from _pairs(place.shape[1], source.shape[2] * source.shape[3], found.lanes)
        return
    if layer.kind not in {"conv", "linear"}:
        yield Way("plane")
        return
    yield _DENSE
    assert layer.weight is not None  # noqa: S101 - these two have one
    if share_of_zeros(layer.weight) < MIN_ZEROS and layer.kind == "linear":
        return  # a convolution is tried: it is fused, and the stem of a network is weak in torch
    if layer.kind == "linear":
        if source.floats == layer.weight.shape[1]:
            yield Way("gemv")
            if source.floats % 64 == 0:  # else it would have to be padded at every call
                yield Way("mask")
        yield from _products(source.floats // layer.weight.shape[1], found.lanes, _TILES)
        return
    columns = place.shape[2] * place.shape[3]
    if layer.geometry is not None and layer.geometry.is_product:
        for way in _products(columns, found.lanes, _TILES):
            yield way._replace(in_place=True)
            if not source.ours:
                yield way
        return
    assert layer.geometry is not None  # noqa: S101 - a convolution has one
    yield from direct_ways(layer.geometry, source.shape, found.lanes)
    yield from _products(columns, found.lanes, _UNFOLDED)


def _pairs(channels: int, columns: int, lanes: int) -> Iterator[Way]:
    vectors = -(-columns // lanes)
    most = max(_GROUPS[0], _CACHE // (4 * lanes * vectors))
    for tiles, block in dict.fromkeys((min(t, vectors), b) for t, b in _PAIRED):
        for group in _GROUPS:
            if group <= most and group < max(2 * channels, _GROUPS[0] + 1):
                yield Way("pair", tiles, block, rows=group)


def _products(columns: int, lanes: int, sizes: tuple[tuple[int, int], ...]) -> Iterator[Way]:
    vectors = -(-columns // lanes)
    yield from dict.fromkeys(Way("tiles", min(tiles, vectors), block) for tiles, block in sizes)


def made(layer: Layer, way: Way, source: Place, place: Place) -> Step | Dense | None:
    """What runs a layer in a way."""
    return Dense(layer, place) if way == _DENSE else step_of(layer, way, source, place)


def chosen(layer: Layer, source: Place, place: Place) -> Way:
    """The fastest way."""
    candidates = list(ways(layer, source, place))
    if len(candidates) == 1:
        return candidates[0]
    return timed(layer, candidates, source, place)[0]


def timed(
    layer: Layer, candidates: Sequence[Way], source: Place, place: Place
) -> tuple[Way, float]:
    """The fastest way and its seconds, by rounds in which all take turns.

    Of a large batch a part is timed.
    """
    whole = source.shape[0]
    source, place = _part(layer, source, place)
    x, out = _space(source).normal_(), _space(place)
    residual = None if layer.residual is None else _space(place).normal_()
    calls: list[tuple[Way, Any]] = []
    for way in candidates:
        call = made(layer, way, source, place)
        if call is not None:
            call.out = out
            calls.append((way, call))
    least = [float("inf")] * len(calls)
    begun = time.perf_counter()
    for turn in range(_ROUNDS):
        if turn > 1 and time.perf_counter() - begun > _LONGEST_S:
            break
        for i, (_, call) in enumerate(calls):
            if time.perf_counter() - begun > _PATIENCE_S:
                break
            if turn < 2 or least[i] <= _HOPELESS * min(least):  # noqa: PLR2004 - one to warm up
                start = time.perf_counter()
                call(x, residual)
                least[i] = min(least[i], time.perf_counter() - start)
    best = min(range(len(calls)), key=least.__getitem__)
    return calls[best][0], least[best] * whole / source.shape[0]


def _part(layer: Layer, source: Place, place: Place) -> tuple[Place, Place]:
    """Fewer images or tokens, where there are more than it takes."""
    assert layer.weight is not None  # noqa: S101 - what is timed has one
    whole = source.shape[0]
    if layer.kind == "linear":
        work = layer.weight.numel() * source.floats / layer.weight.shape[1]
    else:
        work = layer.weight.numel() * whole * place.shape[2] * place.shape[3]
    count = max(1, min(whole, int(whole * _ENOUGH / work)))
    if layer.kind == "linear" and source.shape[:-1] != place.shape[:-1]:
        return source, place
    return (
        source._replace(shape=(count, *source.shape[1:])),
        place._replace(shape=(count, *place.shape[1:])),
    )


def _space(place: Place) -> Tensor:
    whole = torch.zeros(place.floats + SLACK + 16)
    start = (-whole.data_ptr() // 4) % 16
    return whole.as_strided(place.shape, place.stride, start)
