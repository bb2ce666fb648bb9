"""A plan from units that were chosen by hand."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from excise.axes import Axis
from excise.budget.draft import build
from excise.budget.option import check_values
from excise.budget.rehearsal import followed, rehearse
from excise.errors import InvalidUnitError, UnknownGroupError
from excise.graph import AxisGraph
from excise.plan import Plan
from excise.scores.scores import Scores


def plan_units(graph: AxisGraph, removed: Mapping[str, Iterable[int]]) -> Plan:
    """A plan from units chosen by hand, checked and rehearsed.

    Args:
        graph: from `trace`.
        removed: group name -> units to remove, from 0.

    Raises:
        UnknownGroupError: no such group, it is pinned, a tied group is not cut in step, or the
            model does not run with that cut.
        InvalidUnitError: a unit is no whole number, out of range, given twice, or the last one.
    """
    check_values(graph, Scores({}))
    kept: dict[Axis, int] = {}
    units: dict[str, tuple[int, ...]] = {}
    for name, given in removed.items():
        axis = graph.axes.get(name)
        if axis is None:
            raise UnknownGroupError(name, "there is no such group")
        if axis.pin is not None:
            raise UnknownGroupError(name, axis.pin.reason)
        chosen = tuple(sorted(_unit(name, unit, axis.size) for unit in _each(name, given, axis)))
        for i, unit in enumerate(chosen):
            if not 0 <= unit < axis.size or unit in chosen[:i] or len(chosen) >= axis.size:
                raise InvalidUnitError(name, unit, axis.size)
        if chosen:
            kept[axis], units[name] = axis.size - len(chosen), chosen
    for name in units:
        members = graph.tie(graph.group(name))
        steps = {(axis.size - kept.get(axis, axis.size)) / weight for axis, weight in members}
        if len(steps) > 1:
            others = ", ".join(axis.name for axis, _ in members if axis.name != name)
            raise UnknownGroupError(name, f"it has to be cut in step with {others}")
    made = build(graph, kept, units)
    found = rehearse(graph, made, kept)
    if found:
        raise UnknownGroupError(next(iter(units)), found[0][1].reason)
    return followed(graph, made, kept)


def _each(group: str, given: Any, axis: Axis) -> list[Any]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidUnitError(group, repr(given), axis.size)
    return list(given)


def _unit(group: str, given: Any, size: int) -> int:
    """A unit as an int; a boolean (of a mask) or a fraction is none."""
    kind = str(getattr(given, "dtype", type(given).__name__))
    try:
        if "bool" in kind:
            raise InvalidUnitError(group, repr(given), size)
        return operator.index(given)
    except TypeError as error:
        raise InvalidUnitError(group, repr(given), size) from error
