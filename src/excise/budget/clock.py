"""Milliseconds as a budget: the table's rows, summed over what a cut leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from excise.axes import Axis, Term, flat
from excise.budget.meter import Amount, Floats, Part, Sum, volume
from excise.budget.presence import Presence, gated
from excise.graph import AxisGraph
from excise.measure.table import Profile, Row, call_ms


class Pace(NamedTuple):
    """How milliseconds of single operations become those of a model.

    Attributes:
        base: Python's share of all operations.
        ops: how many those are.
        scale: what a row's time is multiplied with.
    """

    base: float
    ops: int
    scale: float


def pace_of(graph: AxisGraph, rows: Sequence[Row], dense_ms: float) -> Pace:
    """The pace of a whole model that takes so long, for `clock_of`."""
    total = sum(row.profile.dense for row in rows)
    base = min(0.5 * dense_ms, len(graph.trace.ops) * call_ms())
    scale = (dense_ms - base) / total if total else 1.0
    return Pace(base if rows else dense_ms, len(graph.trace.ops), scale)


def clock_of(
    graph: AxisGraph,
    rows: Sequence[Row],
    dense_ms: float,
    *,
    pace: Pace | None = None,
    presence: Presence | None = None,
) -> Sum:
    """A meter of milliseconds of one forward pass.

    Args:
        graph: of the trace that the rows were made from; with more pins, perhaps.
        rows: every operation's profile.
        dense_ms: what the whole model takes. Of it, Python's share of each operation stays,
            whatever is cut; the rest is the rows', which are scaled to it: in a model, caches are
            colder than around an operation that is run alone.
        pace: of the whole model, where this graph is that of a shorter one.
        presence: branches that may go, and take their operations with them.
    """
    pace = pace or pace_of(graph, rows, dense_ms)
    there = presence or Presence(graph, ())
    weights: dict[tuple[int, tuple[tuple[Axis, ...], ...], Axis | None], list[Profile]] = {}
    for row in rows:
        terms = tuple(tuple(flat(term)) for term in _terms(graph, row))
        key = (id(row.profile), terms, there.of_op(row.place.op))
        weights.setdefault(key, []).append(row.profile)
    parts = [
        gated(
            Part(tuple(list(term) for term in terms), _times(pace.scale * len(alike), alike[0])),
            branch,
        )
        for (_, terms, branch), alike in weights.items()
    ]
    each = pace.base / max(1, pace.ops)
    gone = Counter(there.ops.values())
    parts += [gated(Part((), volume(each * count)), axis) for axis, count in gone.items()]
    left = len(graph.trace.ops) - sum(gone.values())
    return Sum(parts, pace.base * (left / pace.ops) if pace.ops else pace.base)


def _terms(graph: AxisGraph, row: Row) -> tuple[Term, ...]:
    """The dimensions of a row in this graph, whose axes are others if it was inferred again."""
    return tuple(graph.scope.get(ref)[dim] for ref, dim in row.place.where)


def _times(weight: float, profile: Profile) -> Amount:
    def amount(lengths: Sequence[Floats]) -> Floats:
        found: Floats = np.asarray(weight * profile(lengths), dtype=np.float64)
        return found

    return amount
