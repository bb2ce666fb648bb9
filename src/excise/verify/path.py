"""Two models step by step: whether they take one path, and which steps mix units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from excise.axes import Axis, leaves
from excise.graph import AxisGraph
from excise.trace import Op

Removed: TypeAlias = "Mapping[Axis, npt.NDArray[np.bool_]]"
"""Axis -> which of its units are gone."""


def same_path(before: AxisGraph, after: AxisGraph) -> str:
    """Why the two models cannot be compared step by step; empty if they can."""
    ours, theirs = before.trace.ops, after.trace.ops
    for a, b in zip(ours, theirs, strict=False):
        if a.name != b.name:
            return f"the cut model takes another path at {a.where}: {b.name} instead of {a.name}"
    if len(ours) != len(theirs):
        return f"the cut model runs {len(theirs)} operations, the original {len(ours)}"
    return ""


def mixing_ops(before: AxisGraph, after: AxisGraph, removed: Removed) -> dict[int, str]:
    """Operations whose result depends on which units exist: number -> name and module."""
    ops = before.trace.ops
    found: dict[int, str] = {}
    for mixing in before.scope.mixings:
        if any(leaf in removed for leaf in leaves(mixing.term)):
            found[mixing.op] = f"{mixing.name} in {ops[mixing.op].module}"
    for number, (a, b) in enumerate(zip(ops, after.trace.ops, strict=True)):
        if a.floats() != b.floats() or constants(before, a) != constants(after, b):
            found[number] = f"{a.name} (a constant computed from a length) in {a.module}"
    return found


def constants(graph: AxisGraph, op: Op) -> list[float | None]:
    """The values of constants that an operation takes as tensors, None for other tensors."""
    return [graph.trace.tensors[ref.number].value for ref in op.inputs()]
