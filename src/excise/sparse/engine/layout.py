"""Where values lie: planes apart by whole vectors, in one arena that values share in turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, fx

from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.record import Facts

_VECTOR = 16  # floats; planes begin at multiples, so that loads do not cross cache lines
SLACK = 64  # floats behind every value that may be read, and are never used


class Place(NamedTuple):
    """How a value lies.

    Attributes:
        shape: of the tensor.
        plane: floats from one plane of an image to the next; 0 where there are no planes.
        ours: it is in the arena, with slack behind it.
    """

    shape: tuple[int, ...]
    plane: int = 0
    ours: bool = False

    @property
    def stride(self) -> tuple[int, ...]:
        """Of the tensor, in floats."""
        if not self.plane:
            return contiguous(self.shape)
        _, channels, _, wide = self.shape
        return (channels * self.plane, self.plane, wide, 1)

    @property
    def floats(self) -> int:
        """How many it spans."""
        return self.shape[0] * self.stride[0] if self.shape else 1


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor in one piece."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def places_of(layers: Iterable[Layer], facts: Facts, out: set[fx.Node]) -> dict[fx.Node, Place]:
    """How the result of each layer lies, by its last node.

    Planes stand apart only where nothing but layers reads them, and where all that is added up lies
    alike.
    """
    layers = list(layers)
    inside = {node: layer for layer in layers for node in layer.nodes}
    apart = {
        layer.tail
        for layer in layers
        if len(facts.shape[layer.tail]) == 4 and layer.kind != "mean"  # noqa: PLR2004
        and facts.root[layer.tail] not in out
        and layer.tail.users
        and all(_reads_planes(user, layer.tail, inside) for user in layer.tail.users)
    }  # fmt: skip
    while True:
        uneven = {
            node
            for layer in layers
            if layer.residual is not None and (layer.tail in apart) != (layer.residual in apart)
            for node in (layer.tail, layer.residual)
        }
        if not uneven & apart:
            break
        apart -= uneven
    return {
        layer.tail: _place(
            facts.shape[layer.tail], layer.tail in apart, facts.root[layer.tail] not in out
        )
        for layer in layers
    }


def place_of(node: fx.Node, facts: Facts) -> Place:
    """How a value lies that no layer gives: in one piece, if need be after a copy."""
    return _place(facts.shape[node], apart=False, ours=False)


def _reads_planes(user: fx.Node, value: fx.Node, inside: Mapping[fx.Node, Layer]) -> bool:
    layer = inside.get(user)
    if layer is None:
        return False
    return layer.source is value or layer.residual is value


def _place(shape: tuple[int, ...], apart: bool, ours: bool) -> Place:  # noqa: FBT001 - private
    if len(shape) != 4:  # noqa: PLR2004
        return Place(shape, 0, ours)
    floats = shape[2] * shape[3]
    return Place(shape, -(-floats // _VECTOR) * _VECTOR if apart else floats, ours)


def arena_of(
    graph: fx.Graph, facts: Facts, places: Mapping[fx.Node, Place], out: set[fx.Node],
    layers: Iterable[Layer],
) -> dict[fx.Node, Tensor]:  # fmt: skip
    """A tensor for each layer's result, in memory that others use before and after.

    Args:
        graph: the order of things.
        facts: of its nodes.
        places: of the results, by the last node of each layer.
        out: nodes whose memory the caller receives: they get none here.
        layers: all of whose nodes run when the last one does.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    when = order | {node: order[layer.tail] for layer in layers for node in layer.nodes}
    ends: dict[fx.Node, int] = {}
    for node in graph.nodes:
        root = facts.root.get(node, node)
        ends[root] = max(ends.get(root, 0), *(when[n] for n in (node, *node.users)))
    taken: list[tuple[int, int, int]] = []  # begin, end, and the last time of those still there
    offsets: dict[fx.Node, int] = {}
    size = 0
    for node in sorted(places, key=order.__getitem__):
        if facts.root[node] in out or node in out:
            continue
        now = order[node]
        taken = sorted(block for block in taken if block[2] >= now)
        floats = -(-(places[node].floats + SLACK) // _VECTOR) * _VECTOR
        at = _gap(taken, floats)
        taken.append((at, at + floats, ends.get(facts.root[node], now)))
        offsets[node] = at
        size = max(size, at + floats)
    arena = torch.zeros(size + _VECTOR)
    start = (-arena.data_ptr() // 4) % _VECTOR
    return {
        node: arena.as_strided(places[node].shape, places[node].stride, start + at)
        for node, at in offsets.items()
    }


def _gap(taken: list[tuple[int, int, int]], floats: int) -> int:
    at = 0
    for begin, end, _ in taken:
        if begin - at >= floats:
            return at
        at = max(at, end)
    return at
