"""Two layers as one: a 1x1 convolution and the depthwise one that alone reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx

from excise.sparse.engine.choice import timed, ways
from excise.sparse.engine.layout import Place
from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.record import Facts
from excise.sparse.layer import Way


def pairs_of(layers: Sequence[Layer], facts: Facts, out: set[fx.Node]) -> Iterator[Layer]:
    """Every two layers that can be one.

    Args:
        layers: in order. Not touched.
        facts: of the graph.
        out: nodes whose memory the caller receives.
    """
    by_tail = {layer.tail: layer for layer in layers}
    for second in layers:
        first = by_tail.get(second.source)
        if second.kind != "depthwise" or first is None or first.kind != "conv":
            continue
        product = first.geometry is not None and first.geometry.is_product
        alone = len(first.tail.users) == 1 and facts.root[first.tail] not in out
        if product and alone and first.residual is None and second.residual is not first.tail:
            yield Layer(
                "pair", first.source, second.tail, second.geometry, first.weight, second.bias,
                second.residual, second.activation, second.late,
                [*first.nodes, *second.nodes], parts=(first, second),
            )  # fmt: skip


def paying(pair: Layer, source: Place, between: Place, place: Place) -> Way | None:
    """The fastest way of a pair; None where two steps are faster.

    Args:
        pair: the layer.
        source: how its input lies.
        between: how the result of the first would lie.
        place: how the result of the second lies.
    """
    assert pair.parts is not None  # noqa: S101 - it is a pair
    first, second = pair.parts
    way, seconds = timed(pair, list(ways(pair, source, place)), source, place)
    one = timed(first, list(ways(first, source, between)), source, between)[1]
    two = timed(second, list(ways(second, between, place)), between, place)[1]
    return way if seconds <= one + two else None


def joined(layers: Sequence[Layer], pairs: Sequence[Layer]) -> list[Layer]:
    """The layers with pairs in the place of their two."""
    first, second = set(), {}
    for pair in pairs:
        assert pair.parts is not None  # noqa: S101 - it is a pair
        first.add(pair.parts[0].tail)
        second[pair.tail] = pair
    return [second.get(layer.tail, layer) for layer in layers if layer.tail not in first]
