"""What a budget counts: the same quantity of a model before and after, from the axis graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from excise.axes import Axis
from excise.graph import AxisGraph


def measure_of(graph: AxisGraph, name: str) -> Callable[[Mapping[Axis, int]], int]:
    """Units kept of each axis -> multiply-adds, parameters or units."""
    if name == "keep_macs":
        return graph.macs
    if name == "keep_params":
        return graph.params
    axes = [graph.axes[g.name] for g in graph.groups]
    return lambda kept: sum(kept.get(axis, axis.size) for axis in axes)
