"""What a budget counts: the same quantity of a model before and after, from the axis graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from excise.axes import Axis, flat, size
from excise.budget.meter import Meter, Part, Sum, volume
from excise.budget.peak import Peak
from excise.graph import AxisGraph


def meter_of(graph: AxisGraph, name: str) -> Meter:
    """The meter of a budget that is a fraction of what is kept, by its name."""
    if name == "keep_macs":
        return _products((1, product.term) for product in graph.scope.products)
    if name == "keep_params":
        return _products(_stored(graph, ("parameter",), by_width=False))
    if name == "keep_bytes":
        return _products(_stored(graph, ("parameter", "buffer"), by_width=True))
    if name == "keep_peak_memory":
        return Peak(graph)
    return _products((1, (graph.axes[g.name],)) for g in graph.groups)


def _stored(
    graph: AxisGraph, roles: tuple[str, ...], *, by_width: bool
) -> Iterator[tuple[int, tuple[Axis, ...]]]:
    """Every stored tensor once, ties included: bytes of an element (or 1), and its axes."""
    for ref in set(graph.trace.names.values()):
        info = graph.scope.info(ref)
        if info.role in roles:
            axes = tuple(axis for term in graph.scope.get(ref) for axis in term)
            yield (info.width if by_width else 1), axes


def _products(found: Iterator[tuple[int, tuple[Axis, ...]]]) -> Sum:
    """A meter of weighted products; equal products are counted together."""
    weights: Counter[tuple[Axis, ...]] = Counter()
    for weight, term in found:
        factors = tuple(axis for axis in flat(term) if axis.parts is not None or axis.pin is None)
        rest = [axis for axis in flat(term) if axis not in factors]
        weights[factors] += weight * size(rest)
    parts = ((tuple([axis] for axis in term), weight) for term, weight in weights.items())
    return Sum(Part(terms, volume(float(weight))) for terms, weight in parts)
