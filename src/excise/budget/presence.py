"""Presence: whether a branch is there, as an axis that is left whole or taken away at once.

So a branch is one more bundle, of a single step; and what a budget counts inside it is one more
product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from excise.axes import Axis
from excise.branch import Branch
from excise.budget.bundle import Bundle
from excise.budget.meter import Floats, Part
from excise.graph import AxisGraph

_THERE = 2
"""Length of the axis of a branch that is there; a length of 1 would be left out of every term."""


class Presence:
    """The branches of a graph that may go, each with an axis of its own."""

    def __init__(self, graph: AxisGraph, chosen: Sequence[Branch]) -> None:
        self.graph, self.branches = graph, tuple(chosen)
        self.axes = tuple(Axis(_THERE) for _ in chosen)
        self.ops = {op: axis for b, axis in zip(chosen, self.axes, strict=True) for op in b.gone}

    def of_op(self, number: int) -> Axis | None:
        """Of the branch without which an operation does not run; None if there is none."""
        return self.ops.get(number)

    def of_tensors(self, names: Iterable[str]) -> Axis | None:
        """Of the branch in which all these tensors lie; None if there is none."""
        places = {self._place(name) for name in names}
        place = places.pop() if len(places) == 1 else None
        return None if place is None else self.axes[place]

    def _place(self, name: str) -> int | None:
        for place, branch in enumerate(self.branches):
            if any(name.startswith(f"{module.module}.") for module in branch.modules):
                return place
        return None

    def inside(self, bundle: Bundle) -> int | None:
        """The number of the branch inside which a bundle's axes lie; None if there is none."""
        slots = [slot for axis, _ in bundle.members for slot in self.graph.group(axis.name).slots]
        axis = self.of_tensors(slot.tensor for slot in slots)
        return None if axis is None else self.axes.index(axis)

    def bundle(self, place: int, cost: float) -> Bundle:
        """A branch as a bundle of one step."""
        units = tuple(range(_THERE))
        return Bundle(((self.axes[place], _THERE),), (units,), (cost,), (1,))


def gated(part: Part, there: Axis | None) -> Part:
    """A part that counts as long as a branch is there."""
    if there is None:
        return part

    def amount(lengths: Sequence[Floats]) -> Floats:
        return part.amount(lengths[:-1]) * (lengths[-1] / _THERE)

    return Part((*part.terms, [there]), amount)
