"""What is known of a traced tensor whatever the input: values, where they do not depend on it.

A fact has the tensor's rank, but a dimension that no stored tensor carries (batch, positions) has
length 1: what is known holds at every index of it, and so at any resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from excise.axes import Axis, Term, find, flat, leaves, size
from excise.graph import AxisGraph
from excise.trace import Ref

Gone: TypeAlias = "Mapping[Axis, Tensor]"
"""Axis -> one boolean per unit: whether it is taken away."""


class Fact(NamedTuple):
    """Where `known`, the tensor has this `value` for every input; elsewhere `value` is 0."""

    value: Tensor
    known: Tensor

    @property
    def zero(self) -> Tensor:
        """Where the tensor is known to be zero."""
        return self.known & (self.value == 0)

    @property
    def full(self) -> bool:
        """Whether everything is known."""
        return bool(self.known.all())


def wide(tensor: Tensor) -> Tensor:
    """Floating point as float64, on the CPU; everything else as it is."""
    data = tensor.detach().cpu()
    return data.double() if data.is_floating_point() else data


class Layout:
    """Which dimensions of which tensor are kept, and which index of them is which unit."""

    def __init__(self, graph: AxisGraph) -> None:
        self.scope = graph.scope
        named = {ref.number: ref for ref in graph.trace.names.values()}
        self.named = frozenset(named)
        self.carried = {
            id(leaf) for ref in named.values() for t in self.scope.get(ref) for leaf in leaves(t)
        }
        self._places: dict[tuple[int, ...], list[tuple[Axis, Tensor]]] = {}

    def full(self, ref: Ref) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.scope.shape(ref)

    def small(self, ref: Ref) -> tuple[int, ...]:
        """Shape of what is said about a tensor: dimensions that nothing stored carries are 1."""
        if ref.number in self.named:
            return self.full(ref)
        return tuple(
            n if self._kept(term) else min(n, 1)
            for term, n in zip(self.scope.get(ref), self.full(ref), strict=True)
        )

    def _kept(self, term: Term) -> bool:
        """Whether a stored tensor carries a dimension; parts of length 1 have no axis to ask."""
        found = [id(leaf) in self.carried for leaf in leaves(term)]
        return any(found) or not found

    def unknown(self, ref: Ref) -> Fact:
        """Nothing is known."""
        shape = self.small(ref)
        value = torch.zeros((), dtype=torch.float64).expand(shape)
        return Fact(value, torch.zeros((), dtype=torch.bool).expand(shape))

    def settle(self, ref: Ref, value: Tensor, known: Tensor) -> Fact:
        """Bring a value to the small shape: what differs along a dropped dimension is not known."""
        shape = self.small(ref)
        known = known & torch.isfinite(value) if value.is_floating_point() else known
        known = known.expand(value.shape) if known.ndim <= value.ndim else known
        for dim, n in enumerate(shape):
            if n == 1 and value.shape[dim] > 1:
                first = value.narrow(dim, 0, 1)
                known = (known & (value == first)).all(dim, keepdim=True)
                value = first
        value, known = value.expand(shape), known.expand(shape)
        return Fact(torch.where(known, value, torch.zeros((), dtype=value.dtype)), known)

    def pattern(self, ref: Ref, marks: Tensor) -> Tensor:
        """Bring marks to the small shape: a dropped dimension is marked if any index is."""
        for dim, n in enumerate(self.small(ref)):
            if n == 1 and marks.shape[dim] > 1:
                marks = marks.any(dim, keepdim=True)
        return marks.expand(self.small(ref))

    def places(self, term: Term) -> list[tuple[Axis, Tensor]]:
        """For each leaf of a dimension: the unit of every index, -1 where it is of another part."""
        key = tuple(id(axis) for axis in flat(term))
        found = self._places.get(key)
        if found is None:
            found = [(leaf, torch.tensor(units)) for leaf, units in _places(term)]
            self._places[key] = found
        return found

    def gone(self, ref: Ref, gone: Gone) -> Tensor | None:
        """Marks on everything that goes with the units in `gone`; None if nothing does."""
        marks = None
        shape = self.small(ref)
        for dim, (term, n) in enumerate(zip(self.scope.get(ref), shape, strict=True)):
            if n != size(term) or n <= 1:
                continue
            line = None
            for leaf, units in self.places(term):
                lost = gone.get(leaf)
                if lost is not None and bool(lost.any()):
                    here = lost[units.clamp_min(0)] & (units >= 0)
                    line = here if line is None else line | here
            if line is not None:
                spread = line.reshape([-1 if i == dim else 1 for i in range(len(shape))])
                marks = spread if marks is None else marks | spread
        return None if marks is None else marks.expand(shape)

    def units(self, ref: Ref, marks: Tensor) -> Iterable[tuple[Axis, Tensor]]:
        """The units that own marked elements: axis -> one boolean per unit."""
        for dim, term in enumerate(self.scope.get(ref)):
            if marks.shape[dim] != size(term) or marks.shape[dim] <= 1:
                continue
            others = [i for i in range(marks.ndim) if i != dim]
            line = marks.any(others) if others else marks
            for leaf, units in self.places(term):
                hit = torch.zeros(leaf.size, dtype=torch.bool)
                hit[units[line & (units >= 0)]] = True
                yield leaf, hit


def _places(term: Term) -> list[tuple[Axis, list[int]]]:
    axes = flat(term)
    out: list[tuple[Axis, list[int]]] = []
    total, outer = size(term), 1
    for axis in axes:
        inner = total // (outer * axis.size)
        for leaf, units in _inside(axis):
            out.append((leaf, [units[i // inner % axis.size] for i in range(total)]))
        outer *= axis.size
    return out


def _inside(axis: Axis) -> list[tuple[Axis, list[int]]]:
    """The units of one axis of a term: itself, or those of each of its parts."""
    root = find(axis)
    if root.parts is None:
        return [(root, list(range(root.size)))]
    out, start = [], 0
    for part in root.parts:
        for leaf, units in _places([part]):
            whole = [-1] * root.size
            whole[start : start + part.size] = units
            out.append((leaf, whole))
        start += part.size
    return out
