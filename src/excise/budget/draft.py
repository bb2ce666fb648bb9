"""Write a cut down as a plan: tensors, dimensions, attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from excise.axes import Axis, leaves, notation
from excise.graph import AxisGraph, Lengths
from excise.layers import table_attributes
from excise.plan import AttributeCut, Plan, TensorCut
from excise.trace.skeleton import read


def build(
    graph: AxisGraph,
    kept: Mapping[Axis, int],
    removed: Mapping[str, tuple[int, ...]],
    numbers: Iterable[tuple[str, int, int]] = (),
) -> Plan:
    """Write a cut down as a plan: tensors, dimensions, attributes.

    `numbers` are attributes of the model itself that change as well: path, before, after.
    """
    lengths = Lengths(kept)
    tensors: list[TensorCut] = []
    after: dict[str, tuple[int, ...]] = {}
    used: set[Axis] = set()
    for name in graph.trace.names:
        dims = graph.dims(name)
        shape = tuple(graph.scope.shape(graph.trace.names[name]))
        new = tuple(length(lengths, term) for term in dims)
        after[name] = new
        if new != shape:
            tensors.append(TensorCut(name, shape, tuple(notation(term) for term in dims)))
            used |= {leaf for term in dims for leaf in leaves(term)}
    before = {n: tuple(graph.scope.shape(r)) for n, r in graph.trace.names.items()}
    return Plan(
        removed=dict(removed),
        sizes={axis.name: axis.size for axis in used},
        tensors=tuple(tensors),
        attributes=_attributes(graph, kept, after, numbers),
        shapes=before,
    )


def length(lengths: Lengths, term: Iterable[Axis]) -> int:
    """Length of a dimension after a cut."""
    total = 1
    for axis in term:
        total *= lengths[axis]
    return total


def _attributes(
    graph: AxisGraph,
    kept: Mapping[Axis, int],
    after: Mapping[str, tuple[int, ...]],
    numbers: Iterable[tuple[str, int, int]],
) -> tuple[AttributeCut, ...]:
    """Attributes by provenance, then those of known layers; only the ones that change."""
    model = graph.stage.model
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for attribute, new in graph.attributes(kept):
        old = int(read(model.get_submodule(attribute.module), attribute.path))
        found[attribute.module, attribute.path] = (old, new)
    for module, path, old, new in table_attributes(model, after, _new(found)):
        found[module, path] = (old, new)
    found |= {("", path): (old, new) for path, old, new in numbers}
    return tuple(
        AttributeCut(module, path, old, new)
        for (module, path), (old, new) in found.items()
        if old != new
    )


def _new(found: Mapping[tuple[str, str], tuple[int, int]]) -> dict[tuple[str, str], int]:
    return {place: after for place, (_, after) in found.items()}
