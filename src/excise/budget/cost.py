"""What a budget counts: the same quantity of a model before and after, from the axis graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from excise.axes import Axis, flat, size
from excise.budget.meter import Meter, Part, Sum, volume
from excise.budget.peak import Peak
from excise.budget.presence import Presence, gated
from excise.graph import AxisGraph
from excise.trace import Ref


def meter_of(graph: AxisGraph, name: str, presence: Presence | None = None) -> Meter:
    """The meter of a budget that is a fraction of what is kept, by its name.

    With `presence`, what lies in a branch counts as long as the branch is there; not so of the peak
    memory, which is no sum.
    """
    there = presence or Presence(graph, ())
    if name == "keep_macs":
        every = graph.scope.products
        return _products((1, product.term, there.of_op(product.op)) for product in every)
    if name == "keep_params":
        return _products(_stored(graph, ("parameter",), there, by_width=False))
    if name == "keep_bytes":
        return _products(_stored(graph, ("parameter", "buffer"), there, by_width=True))
    if name == "keep_peak_memory":
        return Peak(graph)
    slots = ((g, [slot.tensor for slot in g.slots]) for g in graph.groups)
    return _products((1, (graph.axes[g.name],), there.of_tensors(names)) for g, names in slots)


_Summand = tuple[int, tuple[Axis, ...], "Axis | None"]
"""A weight, the axes that it is multiplied with, and the presence of the branch it lies in."""


def _stored(
    graph: AxisGraph, roles: tuple[str, ...], there: Presence, *, by_width: bool
) -> Iterator[_Summand]:
    """Every stored tensor once, ties included: bytes of an element (or 1), and its axes."""
    names: dict[Ref, list[str]] = {}
    for name, ref in graph.trace.names.items():
        names.setdefault(ref, []).append(name)
    for ref in set(graph.trace.names.values()):
        info = graph.scope.info(ref)
        if info.role in roles:
            axes = tuple(axis for term in graph.scope.get(ref) for axis in term)
            yield (info.width if by_width else 1), axes, there.of_tensors(names[ref])


def _products(found: Iterable[_Summand]) -> Sum:
    """A meter of weighted products; equal products are counted together."""
    weights: Counter[tuple[tuple[Axis, ...], Axis | None]] = Counter()
    for weight, term, there in found:
        factors = tuple(axis for axis in flat(term) if axis.parts is not None or axis.pin is None)
        rest = [axis for axis in flat(term) if axis not in factors]
        weights[factors, there] += weight * size(rest)
    parts = (
        (Part(tuple([axis] for axis in term), volume(float(weight))), there)
        for (term, there), weight in weights.items()
    )
    return Sum(gated(part, there) for part, there in parts)
